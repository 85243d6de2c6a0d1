"""Middleware for web applications: each request is a trace and is counted; and pages of a program's own metrics.

    app.add_middleware(ASGIMiddleware)              # of Starlette, FastAPI and others
    app.wsgi_app = WSGIMiddleware(app.wsgi_app)     # of Flask; of any other: application = WSGIMiddleware(application)
    app.mount("/metrics", asgi_metrics)

No framework is imported. Of a request its method, route and status are recorded: no path, query, header, body, address.
"""

from hearthnet.observability.middleware.asgi import ASGIMiddleware
from hearthnet.observability.middleware.metrics_page import asgi_metrics, wsgi_metrics
from hearthnet.observability.middleware.wsgi import WSGIMiddleware

__all__ = ["ASGIMiddleware", "WSGIMiddleware", "asgi_metrics", "wsgi_metrics"]
