"""The service: an HTTP API and a page over one engine. FastAPI, Jinja2 and SQLAlchemy come with the extra `serve`."""
