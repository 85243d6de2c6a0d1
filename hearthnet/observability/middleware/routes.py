"""Names of requests: the template of the route that served one, never its path.

A path may have ids and secrets in it, and callers invent them; a program has as many templates as it has routes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

__all__ = ["KnownTemplates", "asgi_route", "wsgi_route"]

_PARAMETER: Final = re.compile(r"\{([^{}:]+)(?::[^{}]*)?\}")  # of Starlette and others: {name}, {name:int}
_ANY_PARAMETER: Final = re.compile(r"\{[^{}]*\}|<[^<>]*>")  # also of Werkzeug: <name>, <int:name>
_REST: Final = "/{path}"  # of an application that is mounted, and says no more
_MAX_TEMPLATES: Final = 1_000
_MAX_PATH_CHARS: Final = 256  # of a path that is compared with templates
_MAX_PER_SHAPE: Final = 64
_MAX_DEPTH: Final = 16  # of routers in routers: one may be in itself


def asgi_route(scope: Mapping[str, Any], path: str) -> str | None:
    """Returns the template of the route that Starlette, FastAPI or Litestar has found; None: it found none.

    All of its text is in templates of the application: where these do not say which one is the right one, it is shorter
    or None.

    Args:
        scope: of the request, after the framework has changed it.
        path: as it was before, without the `root_path` of that time.
    """
    if isinstance(template := scope.get("path_template"), str):  # Litestar
        return template
    route, endpoint, given = scope.get("route"), scope.get("endpoint"), scope.get("path_params")
    parameters: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    routes = getattr(scope.get("router"), "routes", ())
    own = getattr(route, "path", None)
    if isinstance(own, str) and not hasattr(route, "routes"):
        included = _included(scope, route)
        if included is not None and _filled(included, parameters) == path:
            return _parsed(included)[0]
        return _whole(path, route, parameters, routes)
    if endpoint is None:
        return None
    found = {around + _full(one) for around, one in _walk(routes) if _serves(one, route, endpoint)}
    return _chosen(found, _named(path, parameters))


def _whole(path: str, route: Any, parameters: Mapping[str, Any], routes: Iterable[Any]) -> str:
    """Returns a route's template behind those of the routers around it, which the route does not know."""
    own = _parsed(route.path)[0]
    if _filled(route.path, parameters) == path:
        return own
    found = {around + own for around, one in _walk(routes) if one is route}
    return _chosen(found, _named(path, parameters)) or own


def _included(scope: Mapping[str, Any], route: Any) -> str | None:
    """Returns the template of a route behind those of the routers of FastAPI that include it: quicker than a walk."""
    own = scope.get("fastapi")
    found = own.get("effective_route_context") if isinstance(own, dict) else None
    template = getattr(found, "path_format", None) if getattr(found, "original_route", None) is route else None
    return template if isinstance(template, str) else None


def _filled(template: str, parameters: Mapping[str, Any]) -> str:
    """Returns the path that a template and its parameters make."""
    parts = _parsed(template)[1]
    return "".join([str(parameters.get(part, "")) if at % 2 else part for at, part in enumerate(parts)])


def _chosen(found: set[str], named: str | None) -> str | None:
    """Returns the template that is the only one, or else the one that the path itself shows."""
    if len(found) == 1:
        return next(iter(found))
    return named if named in found else None


def _serves(one: Any, route: Any, endpoint: Any) -> bool:
    """Returns whether a route or mount is what the framework has found.

    A function may be either's: it is a route's handler, or an application that is mounted.
    """
    if not isinstance(getattr(one, "path", None), str):  # a host, or routers that are included
        return False
    if _is_mount(route) and hasattr(route, "path"):
        return one is route
    return getattr(one, "app" if _is_mount(one) else "endpoint", None) is endpoint  # Starlette before 1.0


def _full(route: Any) -> str:
    template = _parsed(route.path)[0]
    return template + _REST if _is_mount(route) else template


def _is_mount(route: Any) -> bool:
    return hasattr(route, "routes")


def _walk(routes: Iterable[Any], around: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Returns all routes and mounts, each with the template of the mounts around it."""
    for one in routes:
        yield around, one
        if depth >= _MAX_DEPTH:
            continue
        if (included := getattr(one, "original_router", None)) is not None:  # FastAPI from 0.13x on
            prefix = getattr(getattr(one, "include_context", None), "prefix", "")
            yield from _walk(included.routes, around + _parsed(prefix)[0], depth + 1)
        elif _is_mount(one):  # a host has no path
            yield from _walk(one.routes, around + _parsed(getattr(one, "path", ""))[0], depth + 1)


@lru_cache(maxsize=_MAX_TEMPLATES)
def _parsed(route: str) -> tuple[str, list[str]]:
    """Returns a template without converters, and its texts and the names between them by turns."""
    return _PARAMETER.sub(r"{\1}", route), _PARAMETER.split(route)


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
