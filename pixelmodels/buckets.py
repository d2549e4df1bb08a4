"""How buckets are reached: Arrow's file systems of S3 and of Google Cloud Storage, and their own clients for what Arrow has no call for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pyarrow as pa
from pyarrow import fs

from pixelmodels.errors import UserError, first_line

GS_RETRY_S = 60  # seconds for which a call of a gs:// bucket is tried again


def s3_filesystem(uri: str, endpoint: str | None, region: str | None) -> fs.FileSystem:
    """The bucket's file system: credentials from the environment, and failures told within seconds."""
    if region is None:
        region = "us-east-1" if endpoint else _region_of(uri.removeprefix("s3://").split("/", 1)[0])
    return fs.S3FileSystem(
        region=region,
        endpoint_override=endpoint or None,
        connect_timeout=10,
        request_timeout=60,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=4),
        background_writes=False,  # an upload that fails is told by the call that made it
        allow_delayed_open=True,  # a small file is one PUT
    )


def gcs_filesystem(endpoint: str | None) -> fs.FileSystem:
    """The file system of `gs://` buckets: Google's credentials as its own programs find them; raises `UserError` where there are none."""
    limit = timedelta(seconds=GS_RETRY_S)
    if endpoint:
        scheme, _, host = endpoint.rpartition("://")
        return fs.GcsFileSystem(anonymous=True, scheme=scheme or "http", endpoint_override=host.rstrip("/"), retry_time_limit=limit)
    from google import auth
    from google.auth.exceptions import DefaultCredentialsError

    try:
        auth.default()  # Arrow would look for them for minutes
    except DefaultCredentialsError as error:
        reason = f"gs:// buckets need credentials of Google Cloud, and there are none ({first_line(error)})"
        raise UserError(f"{reason}; set GOOGLE_APPLICATION_CREDENTIALS, or run: gcloud auth application-default login") from error
    return fs.GcsFileSystem(retry_time_limit=limit)


def s3_client(endpoint: str | None, region: str) -> Any:
    import boto3
    from botocore.config import Config

    timeouts = Config(connect_timeout=10, read_timeout=60, retries={"total_max_attempts": 4, "mode": "standard"})
    session = boto3.session.Session()  # of its own: the default one would keep the keys that it was first asked with
    return session.client("s3", endpoint_url=endpoint, region_name=region, config=timeouts)


def gs_client(endpoint: str | None) -> Any:
    from google.auth.credentials import AnonymousCredentials

    try:
        storage = importlib.import_module("google.cloud.storage")
    except ImportError as error:
        raise UserError("storage roots gs://... need the package google-cloud-storage; run: pip install google-cloud-storage") from error
    if endpoint is None:
        return storage.Client()
    return storage.Client(project="none", credentials=AnonymousCredentials(), client_options={"api_endpoint": endpoint})


@contextmanager
def gs_errors() -> Iterator[None]:
    """What Google's client raises as the errors of files; where something is there already, as it is."""
    from google.api_core.exceptions import GoogleAPIError, NotFound, PreconditionFailed
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except PreconditionFailed:
        raise
    except NotFound as error:
        raise FileNotFoundError(first_line(error)) from error
    except (GoogleAPIError, GoogleAuthError) as error:
        raise OSError(first_line(error)) from error


@contextmanager
def s3_errors() -> Iterator[None]:
    """What boto3 raises as the errors of files."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status in (409, 412):  # there is one, or another call is at it
            raise FileExistsError(first_line(error)) from error
        raise (FileNotFoundError if status == 404 else OSError)(first_line(error)) from error
    except BotoCoreError as error:
        raise OSError(first_line(error)) from error


def _region_of(bucket: str) -> str:
    try:
        return str(fs.resolve_s3_region(bucket))
    except (OSError, pa.ArrowException) as error:
        reason = f"bucket '{bucket}' cannot be found ({first_line(error)})"
        raise UserError(f"{reason}; check its name, or set AWS_REGION or AWS_ENDPOINT_URL") from error
