#!/bin/bash
# Runs any other command of highwater on a host, with the image, the secrets and the brokers of its job:
#
#   highwater-tool view kafka://BROKERS/alert-data --limit 5
#
# Commands that talk to Kafka get the flags that log in.

set -euo pipefail
set -a
# shellcheck source=/dev/null # written by cloud-init
. /etc/highwater/env
set +a
[[ -s /run/highwater/secrets/kafka-password ]] || highwater-start prepare

login=()
for word in "$@"; do
  case $word in
    *kafka://*)
      login=(
        --kafka security.protocol=SASL_SSL --kafka sasl.mechanism=SCRAM-SHA-512
        --kafka sasl.username=highwater --kafka sasl.password=@/run/secrets/kafka-password
      )
      ;;
  esac
done

exec docker run --rm --network host --read-only --cap-drop ALL --security-opt no-new-privileges --env AWS_REGION \
  --volume /run/highwater/secrets:/run/secrets:ro "$HIGHWATER_IMAGE" "$@" ${login[@]+"${login[@]}"}
