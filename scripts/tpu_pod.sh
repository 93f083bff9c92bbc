#!/usr/bin/env bash
# Scans on every host of a Cloud TPU pod slice, by gcloud:
#
#   ZONE=us-west4-a POD=my-v5e-64 scripts/tpu_pod.sh \
#     /mnt/shared/Llama-3-8B --facts counterfact --corpus wikipedia \
#     --dtype bfloat16 --model-axis 8 --out /mnt/shared/scan
#
# All arguments go to `kis scan`. Model and --out lie on a file system that every host has mounted
# (Filestore, or a bucket by gcsfuse); kis_jax is installed there by this script. A host that dies
# ends the command on all of them; start it again, and it goes on from what was saved last. A host
# that is preempted gets SIGTERM, upon which all save and end.
set -euo pipefail

: "${ZONE:?the zone of the pod, such as us-west4-a}"
: "${POD:?the name of the pod slice}"
PACKAGE=${PACKAGE:-kis_jax}           # or a path or an address of a wheel
TRIES=${TRIES:-5}                     # how often to start again what a dead host has ended

run() {
  gcloud compute tpus tpu-vm ssh "$POD" --zone "$ZONE" --worker=all --command "$1"
}

run "python3 -m venv ~/kis && ~/kis/bin/pip install --quiet '$PACKAGE' 'jax[tpu]'"
command="~/kis/bin/kis scan$(printf ' %q' "$@") --distributed"
for try in $(seq "$TRIES"); do
  if run "$command"; then
    exit 0
  fi
  echo "tpu_pod.sh: try $try of $TRIES ended early" >&2
  sleep 30
done
exit 1
