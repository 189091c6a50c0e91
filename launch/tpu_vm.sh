#!/usr/bin/env bash
# The same command on every worker of a Cloud TPU VM or pod slice.
#
#   launch/tpu_vm.sh NAME ZONE --config=configs/dml.py:chestxray14 --config.data.dir=NIH_FOLDER \
#     --config.data.cache=SHARED_FOLDER/cache --workdir=SHARED_FOLDER/run
#
# Needs gcloud, logged in; on the workers the repository in ~/chexjax, installed, and a folder that all of them see. Given again after a
# preemption, once the TPU is there again, the same command goes on from its last checkpoint.
set -euo pipefail

if (($# < 3)); then
  echo "usage: launch/tpu_vm.sh NAME ZONE --config=FILE --workdir=DIR [--config.FIELD=VALUE ...]" >&2
  exit 2
fi
name=$1 zone=$2
shift 2
printf -v flags ' %q' "$@"
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
  --command="cd chexjax && python -m chexjax.main --distributed$flags"
