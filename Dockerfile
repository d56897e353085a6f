# Any image with Python 3.11 or newer and its venv module; a digest pins it for good: --build-arg BASE=python@sha256:…
ARG BASE=python:3.11.14-slim-bookworm
# The same with a C compiler, for which the core of the gateway is compiled. With COMPILED=0 any base will do.
ARG BUILD_BASE=python:3.11.14-bookworm

FROM ${BUILD_BASE} AS build
ARG COMPILED=1
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
# pip stays here: /app gets no installer.
RUN python3 -m venv pip && pip/bin/pip install mypy==2.4.1 setuptools==84.2.1 types-PyYAML==6.0.12.20261113 \
    && python3 -m venv --without-pip /app
# What the gateway needs, before the gateway itself, which changes more often.
COPY deploy/requirements.txt ./
RUN pip/bin/pip --python /app/bin/python install --require-hashes --requirement requirements.txt
# mypy, which compiles, looks at their types.
RUN site="import site; print(site.getsitepackages()[0])" \
    && /app/bin/python -c "$site" >"$(pip/bin/python -c "$site")/app.pth"
COPY LICENSE README.md pyproject.toml setup.py ./
COPY gateway gateway
RUN INFINITY_GATEWAY_COMPILED=$COMPILED pip/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip/bin/pip --python /app/bin/python install --no-deps dist/*.whl

FROM ${BASE}
LABEL org.opencontainers.image.title="infinity-gateway" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.description="One address in front of many Infinity embedding and rerank servers" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /app /app
# The root file system may be read-only: nothing is ever written.
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# A number, so that Kubernetes can tell that it is not root.
USER 10001:10001
EXPOSE 4000
# Readiness fails, all is served for drain.grace_s more, and what is under way ends: `docker stop` needs --timeout 45.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["/app/bin/python", "-Ic", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 4000, timeout=4); c.request('GET', '/health/liveness'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["/app/bin/infinity-gateway"]
# Wants INFINITY_API_BASE and GATEWAY_MASTER_KEY, or `serve --host 0.0.0.0 --config FILE`.
CMD ["serve", "--host", "0.0.0.0"]
