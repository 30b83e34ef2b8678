# revenant run -- gunicorn app:app
# gunicorn takes the sockets of LISTEN_FDS itself.


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
    return [b"hello\n"]
