"""A `gs://` bucket for tests: a stand-in of Google Cloud Storage on this machine, spoken to over real HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# In a process of its own: Arrow's client holds the interpreter while it waits. With a thread for each connection: it reads on one
# while it holds another open, for which the stand-in's own server is not made. And with Google's precondition that there is no such
# object yet, which the stand-in does not know.
_SERVER = """
import http.server, sys, threading
http.server.HTTPServer = http.server.ThreadingHTTPServer
from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

one_at_a_time, insert = threading.Lock(), objects.insert

def insert_if(request, response, storage, *given, **named):
    with one_at_a_time:
        if request.query.get("ifGenerationMatch") == ["0"]:
            try:
                storage.get_file_obj(request.params["bucket_name"], request.data["meta"]["name"])
            except NotFound:
                pass
            else:
                response.status = http.server.HTTPStatus.PRECONDITION_FAILED
                return response.json({"error": {"message": "conditionNotMet"}})
        return insert(request, response, storage, *given, **named)

for pattern, methods in server.HANDLERS:
    if methods.get("POST") is insert:
        methods["POST"] = insert_if
made = server.create_server("127.0.0.1", 0, in_memory=True, default_bucket=sys.argv[1])
made.start()
print(made._api._httpd.server_address[1], flush=True)
sys.stdin.read()
made.stop()
"""


@contextmanager
def google_bucket_server(name: str) -> Iterator[str]:
    """Serve one empty bucket while the context is open, with STORAGE_EMULATOR_HOST naming the server; gives `gs://name`."""
    before = os.environ.get("STORAGE_EMULATOR_HOST")
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{int(server.stdout.readline())}"
            yield f"gs://{name}"
        finally:
            if before is None:
                os.environ.pop("STORAGE_EMULATOR_HOST", None)
            else:
                os.environ["STORAGE_EMULATOR_HOST"] = before
            server.kill()
