"""The API in OpenAPI's words, and a page to read it that needs nothing from anywhere else."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import orjson

from gateway import __version__
from gateway.core.settings import LimitsSettings

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_FLAG: Schema = {"type": ["boolean", "null"]}
_TOP: Schema = {"type": ["integer", "null"], "minimum": 1}
_DIMENSIONS: Schema = {
    "type": ["integer", "null"],
    "minimum": 0,
    "description": "The first so many numbers of each vector; 0 for all.",
}
_TOLERATED: Schema = {"description": "Taken, and without effect."}
_CAPABILITIES: Schema = {
    "type": "array",
    "items": {"enum": ["embed", "image_embed", "audio_embed", "rerank", "classify"]},
}

_INTRODUCTION = """One address in front of many Infinity servers, in the dialects of their callers.
Fields that are not listed are passed on to the server when they are short scalars.
Send the key, where one is set, as `Authorization: Bearer KEY` or as `api-key`."""


def render_openapi(limits: LimitsSettings) -> Schema:
    """The description as a document of OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "infinity-gateway", "version": __version__, "description": _INTRODUCTION},
        "security": [{}, {"bearer": []}, {"key": []}],
        "paths": {**_calls(), **_native(), **_operations()},
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
            "parameters": _parameters(),
            "responses": _responses(),
            "schemas": {**_requests(limits), **_answers()},
        },
    }


# Parts of schemas


def _ref(name: str, kind: str = "schemas") -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def _list(items: Schema, most: int | None = None) -> Schema:
    bounds = {"minItems": 1, "maxItems": most} if most else {}
    return {"type": "array", "items": items, **bounds}


def _object(required: str, *, extra: Any = True, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": extra,
    }


def _or_null(*values: Any) -> Schema:
    return {"enum": [*values, None]}


def _answer(schema: Schema, words: str = "The answer.", kind: str = "application/json") -> Schema:
    return {"description": words, "content": {kind: {"schema": schema}}}


# Paths


def _call(tag: str, summary: str, body: Schema, answer: Schema, **more: Any) -> Schema:
    failures = {
        400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "UnknownModel", 413: "TooLarge",
        429: "Overloaded", 500: "Failed", 502: "ServerFailed", 503: "Unavailable", 504: "TimeUp",
    }  # fmt: skip
    return {
        "tags": [tag],
        "summary": summary,
        "parameters": [_ref(name, "parameters") for name in ("RequestId", "Timeout")],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": _answer(answer) | {"headers": _HEADERS},
            **{str(status): _ref(name, "responses") for status, name in failures.items()},
        },
        **more,
    }


def _calls() -> dict[str, Schema]:
    embeddings = _call("OpenAI", "Embed texts, images or sounds", _ref("Embeddings"), _ref("EmbeddingList"))
    named = _call(
        "OpenAI", "Embed with the model that the path names", _ref("Embeddings"), _ref("EmbeddingList")
    )
    model = {"name": "model", "in": "path", "required": True, "schema": _ref("PathModel")}
    any_rerank = _call(
        "Rerank",
        "Rerank documents: the fields show whether Cohere's, Jina's, Voyage's or TEI's shape is meant",
        {"anyOf": [_ref("Rerank"), _ref("TextsRerank")]},
        {"anyOf": [_ref("Ranking"), _ref("Ranks")]},
    )
    classify = _call("Infinity", "Classify texts", _ref("Classify"), _ref("Classes"))
    paths = {
        "/v1/embeddings": embeddings,
        "/embeddings": embeddings,
        "/engines/{model}/embeddings": named | {"parameters": [*named["parameters"], model]},
        "/openai/deployments/{model}/embeddings": named
        | {"parameters": [*named["parameters"], model, _ref("ApiVersion", "parameters")]},
        "/v1/rerank": any_rerank,
        "/rerank": any_rerank,
        "/v2/rerank": _call("Rerank", "Rerank as Cohere v2", _ref("Rerank"), _ref("RankingV2")),
        "/v1/embed": _call("Cohere", "Embed as Cohere v1", _ref("CohereEmbed"), _ref("CohereVectors")),
        "/v2/embed": _call("Cohere", "Embed as Cohere v2", _ref("CohereEmbed"), _ref("CohereVectors")),
        "/embed": _call("TEI", "Embed as Text Embeddings Inference", _ref("Embed"), _ref("Vectors")),
        "/v1/classify": classify,
        "/classify": classify,
    }
    return {path: {"post": operation} for path, operation in paths.items()}


def _native() -> dict[str, Schema]:
    failures = {
        "400": "NativeError", "401": "NativeUnauthorized", "403": "NativeError", "413": "NativeError",
        "422": "Invalid", "429": "NativeBusy", "500": "NativeError", "502": "NativeError",
        "503": "NativeBusy", "504": "NativeError",
    }  # fmt: skip
    errors = {status: _ref(name, "responses") for status, name in failures.items()}

    def call(summary: str, body: str, answer: str, **more: Any) -> Schema:
        operation = _call("Infinity, as it is", summary, _ref(body), _ref(answer), **more)
        return operation | {"responses": {"200": operation["responses"]["200"], **errors}}

    def get(summary: str, answer: Schema, *, keyed: bool) -> Schema:
        refusal = {"401": errors["401"]} if keyed else {}
        return {
            "tags": ["Infinity, as it is"],
            "summary": summary,
            "responses": {"200": _answer(answer), **refusal},
            **({} if keyed else {"security": []}),
        }

    paths = {
        "/embeddings": {"post": call("Embed", "NativeEmbeddings", "EmbeddingList")},
        "/embeddings_image": {"post": call("Embed images", "NativeMedia", "EmbeddingList", deprecated=True)},
        "/embeddings_audio": {"post": call("Embed sounds", "NativeMedia", "EmbeddingList", deprecated=True)},
        "/rerank": {"post": call("Rerank documents", "NativeRerank", "NativeRanking")},
        "/classify": {"post": call("Classify texts", "NativeClassify", "Classes")},
        "/models": {"get": get("The models and their queues", _ref("Models"), keyed=True)},
        "/health": {"get": get("The time", _object("unix", unix=_NUMBER), keyed=False)},
    }
    return {base + path: item for base in ("/infinity", "/infinity/v1") for path, item in paths.items()}


def _operations() -> dict[str, Schema]:
    def get(summary: str, *answers: tuple[int, Schema], keyed: bool = False) -> Schema:
        responses = {str(status): answer for status, answer in answers}
        if keyed:
            responses["401"] = _ref("Unauthorized", "responses")
        return {
            "get": {
                "tags": ["The gateway"],
                "summary": summary,
                "responses": responses,
                **({} if keyed else {"security": []}),
            }
        }

    text: Schema = {"type": "string"}
    state = _object("status", status=text)
    models = get("The models that callers may name", (200, _answer(_ref("Models"))), keyed=True)
    info = get("The same as LiteLLM has it", (200, _answer(_ref("ModelInfo"))), keyed=True)
    alive = get("Alive, whatever the load", (200, _answer(text)))
    return {
        "/v1/models": models,
        "/models": models,
        "/v1/model/info": info,
        "/model/info": info,
        "/health": get(
            "Health", (200, _answer(_object("status ready", status=text, ready={"type": "boolean"})))
        ),
        "/health/liveliness": alive,
        "/health/liveness": alive,
        "/health/readiness": get("Ready for calls", (200, _answer(state)), (503, _answer(state, "Not yet."))),
        "/metrics": get("For Prometheus", (200, _answer(text, kind="text/plain"))),
        "/status": get("Pools and deployments", (200, _answer({"type": "object"})), keyed=True),
        "/openapi.json": get("This description", (200, _answer({"type": "object"}))),
        "/docs": get("This description, to be read", (200, _answer(text, kind="text/html"))),
    }


# Components


_HEADERS: Schema = {
    "x-request-id": {"schema": _STRING, "description": "The caller's own, or a new one."},
    "Server-Timing": {
        "schema": _STRING,
        "description": "Milliseconds in the queue and at a server: `queue;dur=…, upstream;dur=…`.",
    },
    **{
        f"x-ratelimit-{field}-{kind}": {"schema": _STRING, "description": words}
        for kind in ("requests", "items")
        for field, words in (
            ("limit", f"The {kind} that the key may send in a minute, where it has a limit."),
            ("remaining", f"The {kind} that it may send now."),
            ("reset", f"Until it may send a whole minute's {kind}: `12.5s`."),
        )
    },
}


def _parameters() -> dict[str, Schema]:
    def header(name: str, schema: Schema, words: str, place: str = "header") -> Schema:
        return {"name": name, "in": place, "required": False, "schema": schema, "description": words}

    return {
        "RequestId": header("x-request-id", _STRING, "Comes back, and is part of the answer's id."),
        "Timeout": header(
            "x-request-timeout",
            {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": ""}]},
            "Seconds until an answer is no use.",
        ),
        "ApiVersion": header("api-version", _STRING, "Azure's; without effect.", "query"),
    }


def _responses() -> dict[str, Schema]:
    retry = {"Retry-After": {"schema": {"type": "string", "pattern": "^[0-9]+$"}, "required": True}}
    challenge = {"WWW-Authenticate": {"schema": {"const": "Bearer"}}}
    error, native = _ref("Error"), _ref("NativeError")
    return {
        "BadRequest": _answer(error, "Something in the call is wrong; `message` says what was expected."),
        "Unauthorized": _answer(error, "No key, or a wrong one.") | {"headers": challenge},
        "Forbidden": _answer(error, "The key is not for this model."),
        "UnknownModel": _answer(error, "No model of that name; `message` has the names."),
        "TooLarge": _answer(error, "The body is larger than is taken."),
        "Overloaded": _answer(error, "More waits than can be answered in time, or than the key may send.")
        | {"headers": retry},
        "Failed": _answer(error, "A fault of the gateway."),
        "ServerFailed": _answer(error, "The servers failed, or answered nonsense."),
        "Unavailable": _answer(error, "No server is up, or the gateway ends.") | {"headers": retry},
        "TimeUp": _answer(error, "No answer came in time."),
        "Invalid": _answer(_ref("Problems"), "Fields are not what they must be."),
        "NativeError": _answer(
            {"anyOf": [native, _ref("Detail")]}, "In Infinity's shape; `code` is the status."
        ),
        "NativeBusy": _answer(native, "Later, perhaps.") | {"headers": retry},
        "NativeUnauthorized": _answer(_ref("Detail"), "No key, or a wrong one.") | {"headers": challenge},
    }


_REFUSED = ["api_base", "api_key", "base_url", "user_config"]


def _requests(limits: LimitsSettings) -> dict[str, Schema]:
    text: Schema = {"type": "string", "maxLength": limits.text_chars_max}
    texts = _list(text, limits.items_max)
    input_ = {"anyOf": [text, texts]}
    passed: Schema = {"type": ["string", "number", "boolean", "null"], "maxLength": 256}
    model = _ref("Model")
    never: Schema = {"not": {}}
    document = {"anyOf": [text, _object("text", text=text)]}
    score_fields = {"raw_scores": _FLAG | {"description": "The model's own numbers, not from 0 to 1."}}

    def body(required: str, **properties: Schema) -> Schema:
        made = _object(required, extra=passed, **properties)
        return made | {"propertyNames": {"maxLength": 256, "not": {"enum": _REFUSED}}}

    uri: Schema = {"type": "string", "pattern": "^data:"}
    media = {"anyOf": [uri, _list(uri, limits.media_items_max)]}
    native: dict[str, Schema] = {"model": _STRING, "user": {"type": ["string", "null"]}}
    encoding: Schema = {"enum": ["float", "base64"]}
    return {
        "Model": {"type": ["string", "null"], "description": "None: the default, or the only one that can."},
        "PathModel": _STRING | {"description": "May hold slashes.", "minLength": 1},
        "Embeddings": body(
            "input",
            model=model,
            input=input_ | {"description": "Texts; for other modalities data URIs."},
            encoding_format=_or_null("float", "base64"),
            embedding_type=_or_null("float", "base64"),
            dimensions=_DIMENSIONS,
            output_dimension=_DIMENSIONS,
            modality=_or_null("text", "image", "audio"),
            input_type=_TOLERATED | {"description": "query or document: for models with prefixes."},
            task=_TOLERATED | {"description": "The same in Jina's words."},
            output_dtype=_or_null("float"),
            normalized=_or_null(True),
            late_chunking=_or_null(False),
            user=_TOLERATED,
            truncation=_TOLERATED,
            truncate=_TOLERATED,
        ),
        "Rerank": body(
            "query documents",
            model=model,
            query=text,
            documents=_list(document, limits.items_max),
            top_n=_TOP,
            top_k=_TOP | {"description": "The same; the answer then has Voyage's `data` too."},
            return_documents=_FLAG,
            rank_fields={"enum": [None, [], ["text"]]},
            texts=never,
            max_tokens_per_doc=_TOLERATED,
            max_chunks_per_doc=_TOLERATED,
            priority=_TOLERATED,
            truncation=_TOLERATED,
            user=_TOLERATED,
            **score_fields,
        ),
        "TextsRerank": body(
            "query texts",
            model=model,
            query=text,
            texts=texts,
            documents=never,
            return_text=_FLAG,
            truncate=_FLAG,
            truncation_direction=_or_null("Right", "right"),
            **score_fields,
        ),
        "CohereEmbed": body(
            "texts",
            model=model,
            texts=texts,
            input_type=_TOLERATED | {"not": {"const": "image"}},
            embedding_types={"enum": [None, [], ["float"]]},
            truncate=_or_null("END", "NONE"),
            output_dimension=_DIMENSIONS,
            dimensions=_DIMENSIONS,
            max_tokens=_TOLERATED,
            priority=_TOLERATED,
        ),
        "Embed": body(
            "inputs",
            model=model,
            inputs=input_,
            dimensions=_DIMENSIONS,
            output_dimension=_DIMENSIONS,
            normalize=_or_null(True),
            truncate=_FLAG,
            truncation_direction=_or_null("Right", "right"),
            prompt_name=_or_null("query", "document"),
        ),
        "Classify": body("input", model=model, input=texts, user=_TOLERATED),
        "NativeEmbeddings": _object(
            "input",
            **native,
            input=input_,
            encoding_format=encoding,
            dimensions={"type": "integer"},
            modality={"enum": ["text", "image", "audio"]},
        ),
        "NativeMedia": _object("input", **native, input=media, encoding_format=encoding),
        "NativeRerank": _object(
            "query documents",
            model=_STRING,
            query=text,
            documents=texts,
            return_documents={"type": "boolean"},
            raw_scores={"type": "boolean"},
            top_n=_TOP,
        ),
        "NativeClassify": _object("input", model=_STRING, input=texts, raw_scores={"type": "boolean"}),
    }


def _answers() -> dict[str, Schema]:
    vector = _list(_NUMBER)
    usage = _object("prompt_tokens total_tokens", prompt_tokens=_COUNT, total_tokens=_COUNT)
    envelope = {"model": _STRING, "usage": usage, "id": _STRING, "created": _COUNT}
    end = "model usage id created"
    meta = _object("billed_units", billed_units={"type": "object"}, warnings=_list(_STRING))
    score: Schema = {"type": ["number", "null"]}
    result = _object(
        "index relevance_score",
        index=_COUNT,
        relevance_score=score,
        document={"anyOf": [_STRING, _object("text", text=_STRING)]},
    )
    code: Schema = {"type": "integer"}
    nothing: Schema = {"type": "null"}
    error = _object(
        "message type param code",
        message=_STRING,
        type=_STRING,
        param={"type": ["string", "null"]},
        code=_STRING,
    )
    problem = _object("type loc msg input", type=_STRING, loc={"type": "array"}, msg=_STRING, input={})
    model = _object(
        "id object created owned_by capabilities stats backend",
        id=_STRING,
        object={"const": "model"},
        created=_COUNT,
        owned_by={"const": "infinity"},
        capabilities=_CAPABILITIES,
        stats={"type": "object"},
        backend=_STRING,
    )
    row = _object(
        "object embedding index",
        object={"const": "embedding"},
        embedding={"anyOf": [_STRING, vector, _list(vector)]},
        index=_COUNT,
    )
    return {
        "EmbeddingList": _object(f"object data {end}", object={"const": "list"}, data=_list(row), **envelope),
        "Ranking": _object(
            f"object results meta {end}",
            object={"enum": ["rerank", "list"]},
            results=_list(result),
            data=_list(result),
            meta=meta,
            **envelope,
        ),
        "RankingV2": _object("id results meta", id=_STRING, results=_list(result), meta=meta),
        "Ranks": _list(_object("index score", index=_COUNT, score=score, text=_STRING)),
        "Vectors": _list({"anyOf": [vector, _list(vector)]}),
        "CohereVectors": _object(
            "id embeddings texts meta response_type",
            id=_STRING,
            embeddings={"anyOf": [_ref("Vectors"), _object("float", float=_ref("Vectors"))]},
            texts=_list(_STRING),
            meta={"type": "object"},
            response_type={"enum": ["embeddings_floats", "embeddings_by_type"]},
        ),
        "Classes": _object(
            f"object data {end}",
            object={"const": "classify"},
            data=_list(_list(_object("score label", score=score, label=_STRING))),
            **envelope,
        ),
        "NativeRanking": _object(
            f"object results {end}",
            object={"const": "rerank"},
            results=_list(
                _object(
                    "relevance_score index document",
                    relevance_score=score,
                    index=_COUNT,
                    document={"type": ["string", "null"]},
                )
            ),
            **envelope,
        ),
        "Models": _object("object data", object={"const": "list"}, data=_list(model)),
        "ModelInfo": _object(
            "data",
            data=_list(
                _object(
                    "model_name litellm_params model_info",
                    model_name=_STRING,
                    litellm_params=_object("model", model=_STRING),
                    model_info=_object("id mode", id=_STRING, mode={"type": ["string", "null"]}),
                )
            ),
        ),
        "Error": _object("error", error=error),
        "NativeError": _object(
            "error",
            error=_object("message type param code", message=_STRING, type=nothing, param=nothing, code=code),
        ),
        "Detail": _object("detail", detail=_STRING),
        "Problems": _object("detail", detail=_list(problem)),
    }


# The page

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font:14px/1.4 ui-monospace,monospace}
pre{overflow-x:auto;border-left:3px solid #8888;padding-left:1rem}
table{border-collapse:collapse}td,th{border-bottom:1px solid #8884;padding:.2rem .8rem;text-align:left}
h3{margin:2rem 0 0}summary{cursor:pointer}
"""


def render_page(spec: Schema) -> bytes:
    """HTML without a script, and without anything to be fetched."""
    return "".join(_page(spec)).encode()


def _page(spec: Schema) -> Iterator[str]:
    info = spec["info"]
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>{info['title']}</title>"
    yield f"<style>{_STYLE}</style>"
    yield f"<h1>{info['title']} {info['version']}</h1><p>{escape(info['description'])}"
    yield '<p>For programs: <a href="openapi.json">openapi.json</a>'
    groups: dict[str, list[tuple[str, str, Schema]]] = {}
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append((path, method, operation))
    for group, operations in groups.items():
        yield f"<h2>{group}</h2>"
        for path, method, operation in operations:
            yield f"<h3><code>{method.upper()} {path}</code></h3><p>{escape(operation['summary'])}"
            yield from _of_operation(operation)
    yield "<h2>Schemas</h2>"
    for name, schema in spec["components"]["schemas"].items():
        yield f"<h3 id={name}>{name}</h3><table>"
        for field, kind in schema.get("properties", {}).items():
            needed = "required" if field in schema.get("required", ()) else ""
            yield f"<tr><td><code>{field}</code><td>{_kind(kind)}<td>{needed}"
        yield f"</table><details><summary>JSON Schema</summary><pre>{_source(schema)}</pre></details>"


def _of_operation(operation: Schema) -> Iterator[str]:
    if "requestBody" in operation:
        yield f"<p>Body: {_kind(operation['requestBody']['content']['application/json']['schema'])}"
    yield "<table>"
    for status, answer in operation["responses"].items():
        if "$ref" in answer:
            yield f"<tr><td>{status}<td>{answer['$ref'].rpartition('/')[2]}"
        else:
            [content] = answer["content"].values()
            yield f"<tr><td>{status}<td>{_kind(content['schema'])}"
    yield "</table>"


def _kind(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, as HTML."""
    words = ""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        words = f'<a href="#{name}">{name}</a>'
    elif "enum" in schema:
        words = " or ".join(f"<code>{_source(value)}</code>" for value in schema["enum"])
    elif "anyOf" in schema:
        words = " or ".join(map(_kind, schema["anyOf"]))
    elif schema.get("type") == "array" and schema.get("items"):
        words = f"list of {_kind(schema['items'])}"
    elif "type" in schema:
        types = schema["type"]
        words = " or ".join(types) if isinstance(types, list) else types
    elif "not" in schema and not schema["not"]:
        words = "never"
    said = escape(schema.get("description", ""))
    return f"{words} {said}".strip()


def _source(value: Any) -> str:
    return escape(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
