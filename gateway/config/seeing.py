"""Read what is told of the gateway while it runs: the log."""

from gateway.config.reader import Value
from gateway.core.settings import LogFormat, LoggingSettings, LogLevel

_FORMATS: tuple[LogFormat, ...] = ("auto", "json", "human")
_LEVELS: tuple[LogLevel, ...] = ("info", "warning", "error")


def read_logging(value: Value) -> LoggingSettings:
    value.only(("format", "level", "access_log"))
    default, share = LoggingSettings(), value["access_log"].number(zero=True) or 0.0
    if share > 1:
        value["access_log"].wrong("a share of calls, from 0 to 1")
    return LoggingSettings(
        value["format"].choice(_FORMATS) or default.format,
        value["level"].choice(_LEVELS) or default.level,
        share,
    )
