"""Tells Ray when the cloud is about to take this machine away: what trains on it saves then, and goes on elsewhere.

    python notice.py 10.0.0.1:6379       # beside Ray on a spot machine, with the address of the head

Amazon tells two minutes before (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html), Google
thirty seconds (https://cloud.google.com/compute/docs/instances/create-use-preemptible): both on a page that only the machine itself can
read. Ray's own launcher does not look there. Copied to machines by aws.yaml and gcp.yaml, it needs nothing but Ray; it ends when Ray knows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from datetime import datetime
from urllib.error import HTTPError

METADATA = "http://169.254.169.254"  # of both clouds
POLL_S = 2.0
_ANSWER_S = 2.0
_NOT_FOUND = 404
_GOOGLE_S = 30.0  # that Google leaves
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def amazon(metadata: str) -> float | None:
    """Seconds until Amazon takes the machine away; None where it has not said so. Raises `OSError` where nobody answers."""
    token = _ask(f"{metadata}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    try:
        told = _ask(f"{metadata}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    except HTTPError as error:
        if error.code == _NOT_FOUND:
            return None
        raise
    return max(0.0, datetime.fromisoformat(json.loads(told)["time"]).timestamp() - time.time())


def google(metadata: str) -> float | None:
    """Seconds until Google takes the machine away; None where it has not said so. Raises `OSError` where nobody answers."""
    told = _ask(f"{metadata}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return _GOOGLE_S if told.strip() == "TRUE" else None


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> str:
    with _DIRECT.open(urllib.request.Request(url, headers=headers, method=method), timeout=_ANSWER_S) as answer:
        return str(answer.read(4096), "utf-8", "replace")


def wait_for_notice(metadata: str) -> float:
    """Wait until the machine's cloud, whichever that is, says that it takes it away; the seconds that are left."""
    while True:
        for cloud in (amazon, google):
            with suppress(OSError, ValueError, LookupError, TypeError):  # no answer, or none that can be understood: look again
                left = cloud(metadata)
                if left is not None:
                    return left
        time.sleep(POLL_S)


def tell_ray(head: str, left_s: float) -> None:
    """Have Ray give this machine no more work, and tell its work how long it has; tried again until that time is over."""
    import ray

    until = time.monotonic() + left_s
    while True:
        with suppress(Exception):  # of any kind: the cluster does not answer
            ray.init(address=head, log_to_driver=False, logging_level="ERROR")
            node = ray.get_runtime_context().get_node_id()
            ray.shutdown()
            words = ["drain-node", "--address", head, "--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
            more = [
                "--reason-message",
                "the cloud takes it away",
                "--deadline-remaining-seconds",
                str(max(1, int(until - time.monotonic()))),
            ]
            subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *words, *more], check=True)
            return
        ray.shutdown()
        if time.monotonic() >= until:
            return
        time.sleep(POLL_S)


def main(argv: list[str] | None = None) -> int:
    """Wait for the notice, tell Ray, and end."""
    parser = argparse.ArgumentParser(description="Tell Ray when the cloud is about to take this machine away.")
    parser.add_argument("head", help="address of the head, such as 10.0.0.1:6379")
    parser.add_argument("--metadata", default=METADATA, help="where the cloud tells machines about themselves")
    told = parser.parse_args(argv)
    left_s = wait_for_notice(told.metadata)
    print(f"this machine is taken away in {left_s:.0f} s", flush=True)
    tell_ray(told.head, left_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
