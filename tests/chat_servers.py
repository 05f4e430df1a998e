"""A server that speaks as a test tells it to: each request takes the next reply."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

MODELS = {"object": "list", "data": [{"id": "sft/tiny", "lumi": {"context": 128, "chats": True}}]}


def refuse(status, message, *, code=None, **headers):
    """Return a reply that is an error in OpenAI's form."""
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    return lambda handler: handler.send(
        status, body, **{name.replace("_", "-"): value for name, value in headers.items()}
    )


def give(data, **headers):
    """Return a reply that is JSON."""
    return lambda handler: handler.send(200, json.dumps(data).encode(), **headers)


def stream(*pieces, seconds=0.0, reason="stop", usage=None, ends=True):
    """Return a reply that streams; a piece that is no text is an event as it stands."""

    def reply(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        events = [piece if isinstance(piece, dict) else _chunk(piece) for piece in pieces]
        if ends:
            events.append(_chunk("", reason))
            events.append({"choices": [], "usage": usage or {"prompt_tokens": 7, "completion_tokens": len(pieces)}})
        for event in events:
            handler.wfile.write(b": a remark\n\ndata: " + json.dumps(event).encode() + b"\n\n")
            time.sleep(seconds)
        if ends:
            handler.wfile.write(b"data: [DONE]\n\n")

    return reply


def _chunk(text, reason=None):
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers), None))
        self.server.models(self)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), body))
        with contextlib.suppress(ConnectionError):
            self.server.replies.pop(0)(self)

    def send(self, status, body, **headers):
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def scripted(*replies, models=None):
    """Serve replies one after the other."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        server.asked, server.replies, server.models = [], list(replies), models or give(MODELS)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield SimpleNamespace(
                url=f"http://127.0.0.1:{server.server_port}", asked=server.asked, replies=server.replies
            )
        finally:
            server.shutdown()
