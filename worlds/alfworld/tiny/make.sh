#!/usr/bin/env bash
# Makes worlds/alfworld/tiny from nothing, on generated games alone. Each command can be stopped and resumed (--resume).
# Result: $OUT/obeys/reference.
set -euo pipefail
cd "$(dirname "$0")/../../.."
OUT=${OUT:-runs}

# 1. The form of a transcript, and reading: thoughts begin with exercises.
python train.py --env alfworld --model tiny --games 2000 --reading 0.5 --cold_start 3500 --sft_copy 2 --steps 0 \
    --eval_every 0 --out "$OUT/reads"

# 2. Smaller steps, fewer exercises.
python train.py --env alfworld --model "$OUT/reads/reference" --games 2000 --reading 0.15 --cold_start 1800 --sft_batch 2 \
    --sft_lr 1.5e-3 --sft_muon 0.01 --seed 1 --context 2048 --act_tokens 96 --review_tokens 160 --steps 0 --eval_every 0 \
    --out "$OUT/plays"

# 3. The same again, with useful habits a little rarer: skills have more to say.
python train.py --env alfworld --model "$OUT/plays/reference" --base 0.5 --games 2000 --reading 0.15 --cold_start 2000 \
    --sft_batch 2 --sft_lr 1.5e-3 --sft_muon 0.01 --seed 2 --context 2048 --act_tokens 96 --review_tokens 160 --steps 0 \
    --eval_every 0 --out "$OUT/obeys"
