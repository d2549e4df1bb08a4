"""A cluster whose nodes are started when something asks for them, as those of a cloud are: from none at all."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import ray
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID as HEAD

from cluster import network
from cluster.local_cluster import LocalCluster, LocalClusterOptions

pytestmark = pytest.mark.faults

RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@pytest.mark.parametrize("workers", ["2", "1..2"])
def test_a_training_waits_for_the_nodes_that_an_autoscaler_starts(workers: str) -> None:
    """Ray's own provider of nodes that are processes, on a host of its own."""
    reason = network.lacks()
    if reason is not None:
        pytest.skip(f"no hosts in network namespaces: {reason}")
    with LocalCluster(LocalClusterOptions(workers=0, mlflow=True), with_ray=False) as cluster:
        host = cluster.add_host("head")
        module = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
        config = yaml.safe_load(Path(ray.__file__).with_name("autoscaler").joinpath("local", "defaults.yaml").read_text()) | {
            "cluster_name": "from-zero",
            "max_workers": 2,
            "provider": {"type": "external", "module": module, "launch_multiple": True, "head_node_id": HEAD},
            "head_node_type": "ray.head.default",
            "available_node_types": {
                "ray.head.default": {"node_config": {}, "resources": {"CPU": 0}, "max_workers": 0},
                "worker": {"node_config": {}, "resources": {"CPU": 2, "object_store_memory": 100_000_000}, "max_workers": 2},
            },
        }
        path = host.folder / "autoscaler.yaml"
        path.write_text(yaml.safe_dump(config))
        words = ["start", "--head", "--num-cpus", "0", "--autoscaling-config", str(path), "--node-ip-address", host.address]
        more = ["--temp-dir", str(host.folder / "ray"), "--port", "6379", "--include-dashboard", "false"]
        variables = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_CLOUD_INSTANCE_ID": HEAD}
        variables |= {"RAY_enable_autoscaler_v2": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD}  # as `ray up` and KubeRay set the first
        host.run([*RAY, *words, *more], variables=variables, timeout_s=200.0)
        command = f"pipelines/train_all.py --only pixelcnn --epochs 2 --num-workers {workers} --storage {host.folder / 'storage'}"
        there = {"RAY_ADDRESS": f"{host.address}:6379"}
        done = host.run([sys.executable, *command.split()], variables=there, timeout_s=500.0, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert re.search(
            r"^digits: waits for [12] worker\(s\) of 1 CPU\(s\); the cluster has 1 node\(s\), with room for 0", done.stdout, re.MULTILINE
        ), said
        assert re.search(r"^1 trained in ", done.stdout, re.MULTILINE), said
