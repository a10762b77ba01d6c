#!/bin/bash
# Fetches secrets, configuration, tables and image, and becomes one process of the run. systemd restarts it by its exit
# code, which is that of highwater; what goes wrong before is 1, whatever the program that failed says.
# `highwater-start prepare` only fetches.

set -eEuo pipefail
trap 'exit 1' ERR

secrets=/run/highwater/secrets
data=/var/lib/highwater

# NAME: the text of a secret. Written to a file of which only highwater can read; memory, not disk.
secret() {
  aws secretsmanager get-secret-value --secret-id "$1" --query SecretString --output text
}

fetch_secrets() {
  umask 077
  mkdir -p "$secrets"
  secret "$HIGHWATER_CLUSTER_SECRET" >"$secrets/cluster"
  secret "$HIGHWATER_KAFKA_SECRET" | python3 -c 'import json, sys; print(json.load(sys.stdin)["password"])' \
    >"$secrets/kafka-password"
  chown -R 10001:10001 "$secrets"
  umask 022
}

fetch_job() {
  mkdir -p "$data/dims"
  aws s3 cp --only-show-errors "s3://$HIGHWATER_BUCKET/$HIGHWATER_CONFIG_KEY" /etc/highwater/job.toml
  aws s3 sync --only-show-errors --delete "s3://$HIGHWATER_BUCKET/data/dims/" "$data/dims/"
}

fetch_image() {
  local registry=${HIGHWATER_IMAGE%%/*}
  if ! docker image inspect "$HIGHWATER_IMAGE" >/dev/null 2>&1; then
    aws ecr get-login-password | docker login --username AWS --password-stdin "$registry" >/dev/null
    docker pull --quiet "$HIGHWATER_IMAGE" >/dev/null
  fi
}

fetch_secrets
fetch_job
fetch_image
[[ ${1:-} != prepare ]] || exit 0

# One that a host which lost its power has left behind.
docker rm --force highwater >/dev/null 2>&1 || true

trap - ERR
exec docker run --rm --name highwater --network host --read-only --cap-drop ALL \
  --security-opt no-new-privileges \
  --env AWS_REGION \
  --volume "$secrets:/run/secrets:ro" \
  --volume /etc/highwater:/etc/highwater:ro \
  --volume "$data/dims:/var/lib/highwater/dims:ro" \
  --log-driver awslogs --log-opt "awslogs-group=$HIGHWATER_LOG_GROUP" \
  --log-opt "awslogs-region=$AWS_REGION" --log-opt "awslogs-stream=process-$HIGHWATER_PROCESS" \
  "$HIGHWATER_IMAGE" run "$HIGHWATER_PIPELINE" --config=/etc/highwater/job.toml \
  "--processes=$HIGHWATER_PROCESSES" "--process=$HIGHWATER_PROCESS" \
  --hostfile=/etc/highwater/hosts --secret-file=/run/secrets/cluster "--bind=0.0.0.0:$HIGHWATER_PEER_PORT"
