#!/usr/bin/env bash
# Scans on a slice of TPUs in a GKE cluster, by XPK (github.com/AI-Hypercomputer/xpk):
#
#   CLUSTER=my-cluster TPU=v5litepod-64 IMAGE=eu.gcr.io/me/kis scripts/tpu_gke.sh \
#     /shared/Llama-3-8B --facts counterfact --corpus wikipedia \
#     --dtype bfloat16 --model-axis 8 --out /shared/scan
#
# All arguments go to `kis scan`. IMAGE has Python with kis_jax and jax[tpu]; STORAGE names what
# `xpk storage attach` has mounted at /shared for all hosts. GKE tells the hosts of one another, so
# that `kis scan` needs no option for it. Kubernetes starts a slice again in which a host has died,
# RESTARTS times, and the scan goes on from what was saved last.
set -euo pipefail

: "${CLUSTER:?the cluster that xpk made}"
: "${TPU:?the type of the slice, such as v5litepod-64}"
: "${IMAGE:?a container image with kis_jax and jax[tpu]}"

xpk workload create \
  --cluster "$CLUSTER" \
  --workload "${WORKLOAD:-kis-scan}" \
  --tpu-type "$TPU" \
  --docker-image "$IMAGE" \
  --max-restarts "${RESTARTS:-5}" \
  ${STORAGE:+--storage "$STORAGE"} \
  --command "kis scan$(printf ' %q' "$@")"
