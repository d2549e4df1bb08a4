# Sourced on every machine of aws.yaml and gcp.yaml, by what starts Ray there and by every shell of `ray exec` and `ray attach`.
# RAY_HEAD_IP is set by Ray's launcher, on workers only.
export PATH="$HOME/venv/bin:$PATH"
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
HEAD_IP="${RAY_HEAD_IP:-$(hostname -I | cut -d' ' -f1)}"
# Made on the head, by its head_setup_commands; nobody needs to know it but the machines themselves, and who looks at MLflow.
export MLFLOW_TRACKING_URI="http://$HEAD_IP:5000" MLFLOW_TRACKING_USERNAME=admin
if [ -r ~/.mlflow/password ]; then MLFLOW_TRACKING_PASSWORD="$(cat ~/.mlflow/password)" && export MLFLOW_TRACKING_PASSWORD; fi
