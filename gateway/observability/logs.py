"""One line in the log for each event worth a person."""

import logging

from gateway.core.events import BadAnswerSeen, DeploymentChanged, Event, FellBack

_log = logging.getLogger("gateway")


def log(event: Event) -> None:
    match event:
        case DeploymentChanged(model, deployment, True, _):
            _log.info("%s is up and serves %s", deployment, model)
        case DeploymentChanged(model, deployment, False, why):
            _log.warning("%s is not up%s: %s", deployment, f" for {model}" if model else "", why)
        case BadAnswerSeen(model, deployment, reason):
            _log.warning("%s gave an answer that does not fit (%s) for %s", deployment, reason, model)
        case FellBack(model, to):
            _log.warning("a call for %s goes to its fallback %s", model, to)
