"""A bucket for tests: an S3 server on this machine, spoken to over real HTTP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# Ray's workers take these from the process that starts Ray, so they are set when this module is imported.
os.environ["AWS_ACCESS_KEY_ID"] = "testing"
os.environ["AWS_SECRET_ACCESS_KEY"] = "testing"
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ.pop("AWS_PROFILE", None)


@contextmanager
def bucket_server(name: str) -> Iterator[str]:
    """Serve one empty bucket while the context is open, with AWS_ENDPOINT_URL naming the server; gives `s3://name`."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = os.environ.get("AWS_ENDPOINT_URL")
    os.environ["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
    try:
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=name)
        yield f"s3://{name}"
    finally:
        if before is None:
            del os.environ["AWS_ENDPOINT_URL"]
        else:
            os.environ["AWS_ENDPOINT_URL"] = before
        server.stop()
