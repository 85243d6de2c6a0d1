"""Names of requests, with the frameworks as they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.web import ask, made

from hearthnet.observability.middleware import ASGIMiddleware
from hearthnet.observability.middleware.routes import KnownTemplates, asgi_route


def names():
    """The names of the traces."""
    return [one.capability for one in made()]


async def test_routes_of_fastapi(tmp_path):
    """In routers in routers, in mounted applications, with parameters in prefixes; of a route without the method."""
    fastapi = pytest.importorskip("fastapi")
    from starlette.staticfiles import StaticFiles

    app, router, inner, mounted = fastapi.FastAPI(), fastapi.APIRouter(), fastapi.APIRouter(), fastapi.FastAPI()

    @router.get("/items/{number}")
    def item(number: int):
        return number

    @inner.get("/parts/{part}")
    def part(part: str):
        return part

    @mounted.get("/rooms/{room}")
    def room(room: str):
        return room

    @app.get("/users/{name}")
    def user(name: str):
        return name

    @app.get("/files/{path:path}")
    def file(path: str):
        return path

    router.include_router(inner, prefix="/sets/{key}")
    app.include_router(router, prefix="/api")
    app.mount("/houses/{house}", mounted)
    app.mount("/static", StaticFiles(directory=tmp_path))
    app.add_middleware(ASGIMiddleware)
    asked = {
        "/api/items/3": "GET /api/items/{number}",
        "/api/items/none": "GET /api/items/{number}",
        "/api/sets/9/parts/4": "GET /api/sets/{key}/parts/{part}",
        "/users/users": "GET /users/{name}",
        "/files/a/b.txt": "GET /files/{path}",
        "/houses/7/rooms/7": "GET /houses/{house}/rooms/{room}",
        "/houses/7/secret": "GET /houses/{house}/{path}",
        "/static/secret": "GET /static/{path}",
        "/secret": "GET",
    }
    for path in asked:
        await ask(app, path)
    await ask(app, "/api/items/3", "POST")

    assert names() == [*asked.values(), "POST /api/items/{number}"]


async def test_routes_of_starlette(tmp_path):
    """Around the application, with its converters; below the root at which the server has it."""
    pytest.importorskip("starlette")
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    async def text(request):
        return PlainTextResponse("x")

    routes = [
        Route("/p/{id:int}", text),
        Mount("/m/{a}", routes=[Route("/q/{b}", text)]),
        Mount("/s", StaticFiles(directory=tmp_path)),
    ]
    app = ASGIMiddleware(Starlette(routes=routes))
    for path in ("/p/7", "/m/1/q/2", "/m/1/secret", "/s/secret"):
        await ask(app, path)
    await ask(app, "/root/p/8", root_path="/root")

    assert names() == ["GET /p/{id}", "GET /m/{a}/q/{b}", "GET /m/{a}/{path}", "GET /s/{path}", "GET /p/{id}"]


async def test_request_in_flight_has_a_name_once_its_route_is_known():
    """As soon as it begins, by the templates of those before."""
    started = []

    async def app(scope, receive, send):
        started.append(scope["hearthnet.trace"].capability)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    app = ASGIMiddleware(app, route=lambda _: "/things/{id}")
    for path in ("/things/1", "/things/2", "/things/2/parts"):
        await ask(app, path)

    assert started == ["GET", "GET /things/{id}", "GET"]


async def test_at_sign_is_no_version():
    """A capability's version would be behind one."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    await ask(ASGIMiddleware(app, route=lambda _: "/@{user}"))

    (found,) = made()
    assert (found.capability, found.version, found.extras["http.route"]) == ("GET /%40{user}", None, "/@{user}")


SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    ("path", "template"),
    [
        (f"/function/reset/{SECRET}", "/function/{path}"),
        (f"/method/{SECRET}", "/method/{path}"),
        (f"/tenants/{SECRET}/users/7", "/tenants/{id}/users/{id}"),
        (f"/tenants/{SECRET}/none", "/tenants/{id}/{path}"),
        (f"/cut/{SECRET}/users/7", "/users/{id}"),
        (f"/7/{SECRET}/007/end", "/7/{word}/{id}/end"),
        (f"/wrapped/{SECRET}/q/7", "/q/{id}"),
        (f"/user-{SECRET}/q/7", "/user-{name}/q/{id}"),
    ],
)
async def test_name_has_no_text_of_a_path(path, template):
    """Of a function or method that is mounted, a parameter that hides another, a path that was cut, converters."""
    pytest.importorskip("starlette")
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.routing import Mount, Route

    class Page:
        async def serve(self, scope, receive, send):
            await done(scope, receive, send)

    class Cuts:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            if scope["path"].startswith("/cut/"):
                scope["path"] = scope["path"].removeprefix(f"/cut/{SECRET}")
            await self.app(scope, receive, send)

    async def found(request):
        return done

    inner, cut = [Route("/q/{id:int}", found)], [Route("/q/{id:int}", found)]
    routes = [
        Mount("/function", done),
        Mount("/method", Page().serve),
        Mount("/tenants/{id}", routes=[Route("/users/{id}", found)]),
        Route("/users/{id}", found),
        Mount("/7/{word}", routes=[Route("/{id:int}/end", found)]),
        Mount("/wrapped/{word}", app=Cuts(Starlette(routes=cut))),
        Mount("/user-{name}", routes=inner),
    ]
    await ask(ASGIMiddleware(Starlette(routes=routes, middleware=[Middleware(Cuts)])), path)

    (name,) = names()
    assert name == f"GET {template}"


async def test_parameter_of_fastapi_that_hides_another():
    """In a mounted application, and in a router that is included below a function that is mounted."""
    fastapi = pytest.importorskip("fastapi")
    app, mounted, router = fastapi.FastAPI(), fastapi.FastAPI(), fastapi.APIRouter()

    @mounted.get("/users/{id}")
    def user(id: str):  # noqa: A002  # the name that hides the other
        return id

    app.mount("/tenants/{id}", mounted)
    router.mount("/pages", done)
    app.include_router(router, prefix="/all")
    app.add_middleware(ASGIMiddleware)
    await ask(app, f"/tenants/{SECRET}/users/7")
    await ask(app, f"/all/pages/{SECRET}")

    assert SECRET not in "".join(names())
    assert names()[0] == "GET /tenants/{id}/users/{id}"


async def done(scope, receive, send):
    """An application with an empty response."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})


def route(path, **more):
    """A route as frameworks have them."""
    return type("Route", (), {"path": path, **more})


ID = route("/{id:int}")


def router(*routes):
    """A router as frameworks have them."""
    return type("Router", (), {"routes": routes})


@pytest.mark.parametrize(
    ("path", "scope", "template"),
    [
        ("/007", {"route": ID, "path_params": {"id": 7}}, "/{id}"),
        ("/secret/7", {"route": ID, "path_params": {"id": 7}}, "/{id}"),
        ("/b/7", {"route": ID, "path_params": {"id": 7}, "router": router(router(ID), ID)}, "/{id}"),
        ("/x/007", {"endpoint": len, "path_params": {"id": 7}}, None),
        ("/x/7", {"endpoint": len, "path_params": {"id": 7}}, None),
        ("/x/7", {"endpoint": len, "router": router(route("/x/{id}", endpoint=len))}, "/x/{id}"),
        ("/y", {"endpoint": len, "router": router(route("/x", endpoint=len), route("/y", endpoint=len))}, "/y"),
        ("/z", {"endpoint": len, "router": router(route("/x", endpoint=len), route("/y", endpoint=len))}, None),
        ("/m/z", {"endpoint": len, "router": router(route("/m", app=len, routes=()))}, "/m/{path}"),
        ("/m/z", {"endpoint": len, "route": router(), "router": router(router())}, None),
        ("/x", {"path_template": "/{any}"}, "/{any}"),
        ("/x", {"path_params": None, "endpoint": None}, None),
        ("/h", {"route": route("/h"), "path_params": {"sub": "domain"}}, "/h"),
    ],
)
def test_template_of_a_scope(path, scope, template):
    """A converted parameter, an older Starlette, a parameter that is not in the path, a host."""
    assert asgi_route(scope, path) == template


def test_routers_within_themselves():
    """A walk through them ends."""
    inside = route("/in")
    around = router(inside)
    around.path, around.routes = "/x", (inside, around)

    assert asgi_route({"route": inside, "path_params": {}, "router": around}, "/x/x/in") == "/x/x/in"


PART = st.text(st.characters(codec="ascii", exclude_characters="/{}<>:"), min_size=1)


@given(st.lists(st.tuples(PART, st.booleans()), min_size=1, max_size=6))
def test_template_is_found_again_by_its_paths(parts):
    """Whatever the parameters are."""
    template = "".join(f"/{{p{at}}}" if named else f"/{text}" for at, (text, named) in enumerate(parts))
    path = "".join(f"/{text}" for text, _ in parts)
    known = KnownTemplates()
    assert known.guess(path) is None

    known.learn(template)

    assert known.guess(path) == template
    assert known.guess(path + "/more") is None


def test_templates_are_bounded():
    """A function for the route may return whatever callers invent."""
    known = KnownTemplates()
    for number in range(3_000):
        known.learn(f"/{number}")
        known.learn(f"/x/{number}/{{id}}")

    assert len(known._known) == 1_000
    assert max(map(len, known._by_shape.values())) <= 64
