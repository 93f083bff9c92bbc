#!/usr/bin/env bash
# Scans on the GPUs of several nodes under Slurm, a process for each GPU:
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 scripts/slurm.sh \
#     /shared/Llama-3-8B --facts counterfact --corpus wikipedia \
#     --dtype bfloat16 --model-axis 2 --out /shared/scan
#
# All arguments go to `kis scan`, which finds the other processes by what srun tells it; each takes
# the GPU of its place on the node. Two minutes before its time is over Slurm sends SIGTERM, upon
# which all save and end; the job is then put in its queue again, RESTARTS times at most, as Slurm
# itself does when a node has died, and the scan goes on.
#SBATCH --job-name=kis-scan
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -uo pipefail

# Since Slurm 22.05 srun does not take the cores of a task from the allocation by itself.
export SRUN_CPUS_PER_TASK="${SRUN_CPUS_PER_TASK:-${SLURM_CPUS_PER_TASK:-1}}"
# One process that ends takes the others along, rather than leave them to wait.
srun --kill-on-bad-exit=1 "${KIS:-kis}" scan "$@"
status=$?
# 143: ended by SIGTERM with all saved. 137: srun gives the status of one that it killed as the first
# had ended; so does one that was killed for its memory, hence the bound.
if [[ $status -eq 143 || $status -eq 137 ]] &&
   [[ ${SLURM_RESTART_COUNT:-0} -lt ${RESTARTS:-20} ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
