"""`gateway.media_hosts` and `gateway.upstream_tls`: what is read, what is refused, and what `check` shows."""

from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from gateway.config import Config, describe, parse
from gateway.core.settings import TlsSettings
from gateway.errors import ConfigError

MODEL = {"model_name": "a", "litellm_params": {"model": "infinity/a", "api_base": "http://x"}}


def read(folder: Path, **gateway: Any) -> Config:
    return parse(yaml.safe_dump({"model_list": [MODEL], "gateway": gateway}), {}, folder)


def problem(folder: Path, **gateway: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, **gateway)
    (found,) = caught.value.problems
    return found


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with an authority and a certificate, and files that are none."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ours, other = authority.issue_cert("gateway"), authority.issue_cert("other")
    ours.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    ours.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    ours.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    other.private_key_pem.write_to_path(str(tmp_path / "other.pem"))
    (tmp_path / "text.pem").write_text("no certificate")
    return tmp_path


def test_what_is_given_is_read_and_shown(files: Path) -> None:
    """Files from the folder of the configuration on; hosts in small letters."""
    tls = {"ca_file": "ca.pem", "cert_file": "cert.pem", "key_file": str(files / "key.pem")}
    config = read(files, media_hosts=["Images.example", "*.cdn.example:8443"], upstream_tls=tls)

    assert config.engine.limits.media_hosts == ("images.example", "*.cdn.example:8443")
    assert config.engine.upstream_tls == TlsSettings(files / "ca.pem", files / "cert.pem", files / "key.pem")
    shown = describe(config)
    assert "media_hosts: images.example, *.cdn.example:8443" in shown
    assert f"upstream_tls.key_file: {files / 'key.pem'}" in shown


def test_what_is_left_out_is_not_there(files: Path) -> None:
    assert read(files, media_hosts=[], upstream_tls={}).engine == read(files).engine
    assert read(files, upstream_tls={"cert_file": "both.pem"}).engine.upstream_tls.cert_file


@pytest.mark.parametrize(
    ("gateway", "found"),
    [
        ({"media_hosts": "images.example"}, "media_hosts: expected a list"),
        ({"media_hosts": ["http://images.example"]}, "media_hosts[0]: expected a host such as"),
        ({"media_hosts": ["a", "*"]}, "media_hosts[1]: expected a host such as"),
        ({"media_hosts": ["a*.example"]}, "media_hosts[0]: expected a host such as"),
        ({"media_hosts": [""]}, "media_hosts[0]: expected a host"),
        ({"upstream_tls": {"ca": "x"}}, "upstream_tls.ca: unknown key"),
        (
            {"upstream_tls": {"ca_file": "none.pem"}},
            "upstream_tls.ca_file: a file cannot be read: No such file",
        ),
        ({"upstream_tls": {"ca_file": "text.pem"}}, "upstream_tls.ca_file: expected PEM"),
        ({"upstream_tls": {"cert_file": "cert.pem"}}, "upstream_tls.cert_file: expected PEM, with a key"),
        (
            {"upstream_tls": {"cert_file": "cert.pem", "key_file": "other.pem"}},
            "upstream_tls.cert_file: expected PEM, with a key that fits",
        ),
        ({"upstream_tls": {"key_file": "key.pem"}}, "upstream_tls.key_file: expected cert_file beside it"),
        ({"limits": {"media_hosts": ["a"]}}, "limits.media_hosts: unknown key"),
        ({"limits": {"head_s_max": 0}}, "limits.head_s_max: expected a number above 0"),
        ({"limits": {"json_depth_max": 2.5}}, "limits.json_depth_max: expected a whole number"),
    ],
)
def test_what_does_not_fit_is_refused(files: Path, gateway: dict[str, Any], found: str) -> None:
    """With its path, and without what is in a file."""
    assert problem(files, **gateway).startswith(f"gateway.{found}")
