"""The application of Ray Serve: `pixelmodels.serving.app:build` with the fields of `Settings` as its arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, BackpressureConfig, RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from pixelmodels.errors import UserError
from pixelmodels.serving import keys
from pixelmodels.serving.gateway import Gateway
from pixelmodels.serving.ingress import make_app
from pixelmodels.serving.ray_serve import FewestImages, ImagesPolicy, listen_on_the_nodes_address
from pixelmodels.serving.replica import Sampler
from pixelmodels.serving.settings import Settings

INGRESS, SAMPLER = "Ingress", "Sampler"  # of its deployments
MANY = 100_000  # requests: how many images wait is what bounds a sampler, and it says so at once
HEALTH_PERIOD_S = 2.0  # between two looks at a replica
LOGGING = {"enable_access_log": False, "log_level": "WARNING"}  # of Serve itself: a line for each request costs more than its routing
ALL_ADDRESSES = ("0.0.0.0/0", "::/0")
# Of the processes between which requests go. Calls over gRPC, handled in the thread where they arrive, cost half as much CPU as those
# between Ray's actors from thread to thread; gRPC's own limit of a message is 4 MB, less than the bodies and
# answers that `Settings` allows.
ENVIRONMENT = {
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(1 << 30),
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
}
# Of Serve's proxies, on a Ray with other applications.
PROXIES = {
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": ENVIRONMENT["RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"],
}


def without_proxy(environ: Mapping[str, str]) -> dict[str, str]:
    """The variable that keeps calls between processes of Ray from going to the proxy of `http_proxy`, as gRPC has it even of 127.0.0.1.

    They are to addresses, not to names, and nothing but gRPC reads it: S3 and MLflow are asked through the proxy as before.
    """
    kept = environ.get("no_grpc_proxy") or environ.get("no_proxy", "")  # gRPC reads the second only where the first is not set
    return {"no_grpc_proxy": ",".join(part for part in (kept, *ALL_ADDRESSES) if part)}


@serve.ingress()
class Ingress:
    """The HTTP API in a replica of its own."""

    def __init__(self, samplers: DeploymentHandle[Any], settings: Settings):
        listen_on_the_nodes_address()
        hashes = tuple(dict.fromkeys((*settings.key_hashes, *keys.hashes_of_environment())))
        if settings.require_key and not hashes:
            raise UserError(f"no API key is known; set {keys.VARIABLE} or key_hashes (require_key: false lets everybody in)")
        self.hashes = hashes
        self.gateway = Gateway(samplers.options(_by_reference=False), settings)  # over gRPC, see ENVIRONMENT

    def __serve_build_asgi_app__(self) -> Any:
        return make_app(self.gateway, self.hashes)

    async def drain(self, timeout_s: float) -> bool:
        """Take no more requests, wait for those there are; whether all were finished."""
        return await self.gateway.drain(timeout_s)


def build(args: Settings | dict[str, Any]) -> serve.Application:
    """The application: an ingress in front of samplers; raises `ValidationError` for arguments that are no `Settings`.

    Ray Serve hands the `args` of a configuration file over as they are: it turns them into a class only where the annotation is one itself,
    not its name.
    """
    return application(args if isinstance(args, Settings) else Settings.model_validate(args), Sampler)


def application(args: Settings, sampler: type[Sampler], environment: dict[str, Any] | None = None) -> serve.Application:
    """The application with samplers of a class; `environment`, Ray's runtime environment of its replicas beside `ENVIRONMENT`."""
    environment = environment or {}
    variables = environment.get("env_vars", {})
    environment = {**environment, "env_vars": {**variables, **ENVIRONMENT, **without_proxy({**os.environ, **variables})}}
    common: dict[str, Any] = {
        "logging_config": LOGGING,
        "health_check_period_s": HEALTH_PERIOD_S,
        "graceful_shutdown_timeout_s": args.drain_s,
        "graceful_shutdown_wait_loop_s": 0.5,
    }
    scaling: dict[str, Any] = {"num_replicas": args.replicas}
    if args.max_replicas is not None and args.max_replicas > args.replicas:
        policy = AutoscalingPolicy(policy_function=ImagesPolicy, policy_kwargs={"images_per_replica": args.images_per_replica})
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=args.replicas,
                max_replicas=args.max_replicas,
                upscale_delay_s=5,
                downscale_delay_s=120,
                metrics_interval_s=2,
                look_back_period_s=10,
                policy=policy,
            )
        }
    samplers = serve.deployment(
        sampler,
        name=SAMPLER,
        ray_actor_options={"num_cpus": args.cpus, "num_gpus": args.gpus, "runtime_env": environment},
        max_ongoing_requests=MANY,
        max_constructor_retry_count=3,
        request_router_config=RequestRouterConfig(request_router_class=FewestImages),
        **common,
        **scaling,
    )
    ingress = serve.deployment(
        Ingress,
        name=INGRESS,
        ray_actor_options={"num_cpus": 0, "runtime_env": environment},
        max_ongoing_requests=4096,
        max_queued_requests=4096,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1.0),
        **common,
    )
    return ingress.bind(samplers.bind(args), args)
