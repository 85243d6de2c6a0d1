"""Names of requests: the template of the route that served one, never its path.

A path may have ids and secrets in it, and callers invent them; a program has as many templates as it has routes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from inspect import isclass, isroutine
from typing import Any, Final

__all__ = ["KnownTemplates", "asgi_route", "wsgi_route"]

_PARAMETER: Final = re.compile(r"\{([^{}:]+)(?::[^{}]*)?\}")  # of Starlette and others: {name}, {name:int}
_ANY_PARAMETER: Final = re.compile(r"\{[^{}]*\}|<[^<>]*>")  # also of Werkzeug: <name>, <int:name>
_REST: Final = "/{path}"  # of an application that is mounted, and says no more
_MAX_TEMPLATES: Final = 1_000
_MAX_PATH_CHARS: Final = 256  # of a path that is compared with templates
_MAX_PER_SHAPE: Final = 64


def asgi_route(scope: Mapping[str, Any], path: str, root: str) -> str | None:
    """Returns the template of the route that Starlette, FastAPI or Litestar has found; None: it found none.

    Args:
        scope: of the request, after the framework has changed it.
        path: as it was before, without `root`.
        root: the `root_path` as it was before.
    """
    if isinstance(template := scope.get("path_template"), str):  # Litestar
        return template
    route, endpoint, given = scope.get("route"), scope.get("endpoint"), scope.get("path_params")
    parameters: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    own = getattr(route, "path", None)
    if isinstance(own, str) and not hasattr(route, "routes"):
        return _whole(path, own, parameters)
    if endpoint is None:
        return None
    if isroutine(endpoint) or isclass(endpoint):  # Starlette before 1.0 does not name the route
        return _named(path, parameters)
    mounted = _named(scope.get("root_path", "").removeprefix(root), parameters)
    return None if mounted is None else mounted + _REST


def _whole(path: str, route: str, parameters: Mapping[str, Any]) -> str:
    """Returns a route's template behind those of the routers around it, which the route does not know."""
    own, parts, names = _parsed(route)
    tail = "".join([str(parameters.get(part, "")) if at % 2 else part for at, part in enumerate(parts)])
    if not path.endswith(tail):  # a parameter was converted: `007` is 7
        return own
    if len(tail) == len(path):
        return own
    others = {name: value for name, value in parameters.items() if name not in names}
    prefix = _named(path[: len(path) - len(tail)], others)
    return own if prefix is None else prefix + own


@lru_cache(maxsize=_MAX_TEMPLATES)
def _parsed(route: str) -> tuple[str, list[str], frozenset[str]]:
    """Returns a template without converters, its texts and the names between them by turns, and the names."""
    parts = _PARAMETER.split(route)
    return _PARAMETER.sub(r"{\1}", route), parts, frozenset(parts[1::2])


def _named(path: str, parameters: Mapping[str, Any]) -> str | None:
    """Returns a path with the names of parameters instead of their values; None if one is not in it."""
    segments = path.split("/")
    for name, value in reversed(list(parameters.items())):
        parts = str(value).split("/")
        places = range(len(segments) - len(parts), -1, -1)
        at = next((at for at in places if segments[at : at + len(parts)] == parts), None)
        if at is None:
            return None
        segments[at : at + len(parts)] = [f"{{{name}}}"]
    return "/".join(segments)


def wsgi_route(environ: Mapping[str, Any]) -> str | None:
    """Returns the template of the route that Flask or Bottle has found; None: it found none."""
    rule = getattr(environ.get("werkzeug.request"), "url_rule", None) or environ.get("bottle.route")
    template = getattr(rule, "rule", None)
    return template if isinstance(template, str) else None


class KnownTemplates:
    """The templates seen so far: by them a request has a name before its route is found.

    That is the name of a request in flight, which is all that is known of it if the program is killed. Parameters that
    take several segments are not considered.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._by_shape: dict[tuple[int, str | None], list[tuple[str, list[str | None]]]] = {}

    def learn(self, template: str) -> None:
        """Remembers a template."""
        if template in self._known or len(self._known) >= _MAX_TEMPLATES:
            return
        self._known.add(template)
        if _ANY_PARAMETER.search(template):
            parts = [None if _ANY_PARAMETER.search(part) else part for part in template.split("/")]
            alike = self._by_shape.setdefault((len(parts), parts[1] if len(parts) > 1 else None), [])
            if len(alike) < _MAX_PER_SHAPE:
                alike.append((template, parts))

    def guess(self, path: str) -> str | None:
        """Returns the template that a path seems to be of."""
        if path in self._known:
            return path
        if len(path) > _MAX_PATH_CHARS:
            return None
        segments = path.split("/")
        count = len(segments)
        first = segments[1] if count > 1 else None
        for key in ((count, first), (count, None)):
            for template, parts in self._by_shape.get(key, ()):
                if all(part is None or part == segment for part, segment in zip(parts, segments, strict=True)):
                    return template
        return None
