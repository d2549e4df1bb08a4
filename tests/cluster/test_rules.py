"""Rules that hold for all files that start clusters, and each of them on copies in which it is broken."""

from __future__ import annotations

import pytest

from . import rules
from .files import broken, files
from .rules import Rule

ALL: tuple[Rule, ...] = (
    rules.no_secrets,
    rules.token_everywhere,
    rules.nothing_listens_unguarded,
    rules.pinned,
    rules.no_development_builds,
    rules.not_root,
    rules.probed,
    rules.bounded,
    rules.begins_with_its_commands,
    rules.spot_workers_from_none,
)
_KEY = "{name: MLFLOW_TRACKING_PASSWORD, valueFrom: {secretKeyRef: {name: pixelmodels-mlflow, key: password}}}"

# Rule, file, a text of it, and the text that breaks the rule.
BROKEN: list[tuple[Rule, str, str, str]] = [
    (rules.no_secrets, "rayjob-train.yaml", _KEY, "{name: MLFLOW_TRACKING_PASSWORD, value: hunter2}"),
    (rules.no_secrets, "raycluster.yaml", "spec:\n  rayVersion", "spec:\n  x: AKIA" + "ABCDEFGHIJKLMNOP\n  rayVersion"),
    (rules.no_secrets, "raycluster.yaml", "kind: RayCluster", "kind: Secret"),
    (rules.no_secrets, "mlflow.yaml", "postgresql+psycopg2:///mlflow", "postgresql+psycopg2://mlflow:geheim@host/mlflow"),
    (rules.no_secrets, "aws.yaml", 'MLFLOW_AUTH_ADMIN_PASSWORD="$(cat ~/.mlflow/password)"', "MLFLOW_AUTH_ADMIN_PASSWORD=geheim"),
    (rules.no_secrets, "node.sh", "export RAY_AUTH_MODE=token", "export RAY_AUTH_TOKEN=geheim RAY_AUTH_MODE=token"),
    (rules.no_secrets, "serve.yaml", "require_key: true", "require_key: true\n      x: pm_" + "q" * 43),
    (rules.no_secrets, "serve.yaml", "require_key: true", "require_key: true\n      x: " + "0123456789abcdef" * 2),
    (rules.no_secrets, "mlflow.yaml", '--from-literal=password="$(openssl rand -hex 24)"', "--from-literal=password=geheim"),
    (rules.no_secrets, "gcp.yaml", "project_id: my-project", "gcp_key: |\n    -----BEGIN " + "PRIVATE KEY-----"),
    (rules.no_secrets, "aws.yaml", "cluster_name: pixelmodels", "cluster_name: abcdEFGH1234abcdEFGH1234abcdEFGH1234"),
    (rules.token_everywhere, "aws.yaml", "RAY_AUTH_MODE=token ray start --head", "ray start --head"),
    (rules.token_everywhere, "gcp.yaml", "RAY_AUTH_MODE=token ray start --address", "RAY_AUTH_MODE=disabled ray start --address"),
    (rules.token_everywhere, "gcp.yaml", "  - ~/.ray/auth_token\n", ""),
    (rules.token_everywhere, "aws.yaml", "chmod 600 ~/.ray/auth_token ~/.mlflow/password", "true"),
    (rules.token_everywhere, "aws.yaml", " && chmod 600 ~/.ray/auth_token", ""),
    (rules.token_everywhere, "rayjob-tune.yaml", "authOptions: {mode: token}", "authOptions: {mode: disabled}"),
    (rules.token_everywhere, "rayservice.yaml", "    authOptions: {mode: token}\n", ""),
    (rules.token_everywhere, "Dockerfile", "ENV RAY_AUTH_MODE=token ", "ENV "),
    (rules.token_everywhere, "serve.yaml", "#   export RAY_AUTH_MODE=token\n", ""),
    (rules.nothing_listens_unguarded, "aws.yaml", "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
    (rules.nothing_listens_unguarded, "gcp.yaml", " --app-name basic-auth", ""),
    (rules.nothing_listens_unguarded, "gcp.yaml", "--host $HEAD_IP", "--host 0.0.0.0"),
    (rules.nothing_listens_unguarded, "serve.yaml", "host: 127.0.0.1", "host: 0.0.0.0"),
    (
        rules.nothing_listens_unguarded,
        "rayjob-train.yaml",
        "podSelector: {matchLabels: {pixelmodels/app: pixelmodels-train}}\n  policy",
        "podSelector: {matchLabels: {pixelmodels/app: x}}\n  policy",
    ),
    (rules.nothing_listens_unguarded, "raycluster.yaml", "kind: NetworkPolicy", "kind: Policy"),
    (
        rules.nothing_listens_unguarded,
        "rayservice.yaml",
        '- from: [{namespaceSelector: {matchLabels: {pixelmodels/may-ask: "true"}}}]\n      ports',
        "- ports",
    ),
    (
        rules.nothing_listens_unguarded,
        "rayservice.yaml",
        'namespaceSelector: {matchLabels: {pixelmodels/may-ask: "true"}}',
        "namespaceSelector: {}",
    ),
    (
        rules.nothing_listens_unguarded,
        "mlflow.yaml",
        '- from: [{podSelector: {matchLabels: {pixelmodels/asks-mlflow: "true"}}}]',
        "- from: [{ipBlock: {cidr: 0.0.0.0/0}}]",
    ),
    (
        rules.nothing_listens_unguarded,
        "mlflow.yaml",
        "  ports: [{name: http, port: 5000}]",
        "  type: LoadBalancer\n  ports: [{name: http, port: 5000}]",
    ),
    (rules.nothing_listens_unguarded, "mlflow.yaml", "--app-name, basic-auth, ", ""),
    (rules.nothing_listens_unguarded, "mlflow.yaml", "containerPort: 5432", "containerPort: 5432, hostPort: 5432"),
    (rules.pinned, "raycluster.yaml", "registry.example/pixelmodels:0.1.0-ray2.60.0", "registry.example/pixelmodels:latest"),
    (rules.pinned, "rayservice.yaml", "registry.example/pixelmodels:0.1.0-ray2.60.0", "registry.example/pixelmodels:0.1.0-ray2.59.0"),
    (rules.pinned, "mlflow.yaml", "image: postgres:17.6-bookworm", "image: postgres"),
    (rules.pinned, "rayjob-train.yaml", "rayVersion: 2.60.0", "rayVersion: 2.59.0"),
    (rules.pinned, "Dockerfile", "python:3.11.14-slim", "python:3.12.1-slim"),
    (rules.pinned, "Dockerfile", "python:3.11.14-slim", "python:3-slim"),
    (rules.pinned, "aws.yaml", "uv==0.13.8", "uv"),
    (rules.pinned, "aws.yaml", "-r ~/requirements.lock -r ~/extra.lock", "ray==2.60.0"),
    (rules.pinned, "aws.yaml", "ami-00000000000000000", "latest_dlami"),
    (rules.pinned, "gcp.yaml", "common-cu129-ubuntu-2404-nvidia-580", "common-gpu"),
    (rules.pinned, "extra.lock", "httplib2==0.32.1", "httplib2"),
    (rules.pinned, "extra.lock", "httplib2==0.32.1", "boto3==1.0.0"),
    (rules.no_development_builds, "aws.yaml", "uv==0.13.8", "uv==0.14.0.dev1"),
    (rules.no_development_builds, "aws.yaml", "\nsetup_commands:", "\nmetadata:"),  # then Ray's own are taken
    (
        rules.no_development_builds,
        "gcp.yaml",
        "head_setup_commands:",
        "setup_command:\n  - pip install https://host/ray-3.0.0.whl\nhead_setup_commands:",
    ),
    (rules.not_root, "rayjob-train.yaml", "runAsNonRoot: true", "runAsNonRoot: false"),
    (rules.not_root, "rayjob-tune.yaml", "runAsUser: 10001", "runAsUser: 0"),
    (rules.not_root, "rayservice.yaml", "            seccompProfile: {type: RuntimeDefault}\n", ""),
    (rules.not_root, "raycluster.yaml", "allowPrivilegeEscalation: false, ", ""),
    (rules.not_root, "mlflow.yaml", "capabilities: {drop: [ALL]}", "capabilities: {drop: [ALL], add: [SYS_ADMIN]}"),
    (rules.not_root, "mlflow.yaml", "automountServiceAccountToken: false", "automountServiceAccountToken: true"),
    (rules.not_root, "rayjob-train.yaml", "securityContext: &container {", "resources: &container {"),
    (rules.not_root, "Dockerfile", "USER 10001:10001\nWORKDIR", "USER root\nWORKDIR"),
    (rules.not_root, "Dockerfile", "utility\nUSER 10001:10001\n", "utility\n"),
    (rules.probed, "mlflow.yaml", "livenessProbe: {exec", "startupProbe: {exec"),
    (rules.probed, "rayservice.yaml", "readinessProbe:  # on", "startupProbe:  # on"),
    (rules.probed, "raycluster.yaml", "livenessProbe: *alive", "startupProbe: *alive"),
    (rules.bounded, "mlflow.yaml", 'limits: {cpu: "2", memory: 2Gi}', 'limits: {cpu: "2"}'),
    (rules.bounded, "rayjob-tune.yaml", 'limits: {cpu: "8", memory: 24Gi, nvidia.com/gpu: 1}', 'limits: {cpu: "8", memory: 24Gi}'),
    (rules.bounded, "rayjob-train.yaml", "requests: {cpu: 250m, memory: 512Mi}", "requests: {}"),
    (rules.begins_with_its_commands, "aws.yaml", "cluster/aws.yaml", "aws.yaml"),
    (rules.begins_with_its_commands, "mlflow.yaml", "# The registry", "\n# The registry"),
    (rules.spot_workers_from_none, "aws.yaml", "MarketType: spot", "MarketType: capacity-block"),
    (rules.spot_workers_from_none, "gcp.yaml", "provisioningModel: SPOT", "provisioningModel: STANDARD"),
    (
        rules.spot_workers_from_none,
        "aws.yaml",
        "InstanceType: m7i.xlarge",
        "InstanceType: m7i.xlarge\n      InstanceMarketOptions: {MarketType: spot}",
    ),
    (
        rules.spot_workers_from_none,
        "gcp.yaml",
        "    resources: {CPU: 8, GPU: 1}\n    min_workers: 0",
        "    resources: {CPU: 8, GPU: 1}\n    min_workers: 1",
    ),
    (rules.spot_workers_from_none, "raycluster.yaml", "enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false"),
    (rules.spot_workers_from_none, "raycluster.yaml", "minReplicas: 0", "minReplicas: 1"),
    (rules.spot_workers_from_none, "rayjob-tune.yaml", "cloud.google.com/gke-spot", "cloud.google.com/spot"),
]


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.__name__)
def test_the_files_keep_the_rule(rule: Rule) -> None:
    assert list(rule(files())) == []


@pytest.mark.parametrize(("rule", "name", "old", "new"), BROKEN, ids=lambda value: getattr(value, "__name__", None) or str(value)[:30])
def test_the_rule_sees_a_broken_copy(rule: Rule, name: str, old: str, new: str) -> None:
    found = list(rule(broken(name, old, new)))
    assert found
    assert any(line.startswith((name, "different Pythons")) for line in found)


def test_every_rule_was_broken() -> None:
    assert {rule for rule, *_ in BROKEN} == set(ALL)
