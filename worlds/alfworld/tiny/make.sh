#!/usr/bin/env bash
# A chain like the one that made worlds/alfworld/tiny: seven cold starts, about 200 CPU minutes. NOT RUN AS IT STANDS: the
# scripted players changed between the steps when the shipped model was made, so what this gives is not known.
# Result: $OUT/copies6/reference.
set -euo pipefail
cd "$(dirname "$0")/../../.."
OUT=${OUT:-runs}

python train.py --env alfworld --model tiny --cold_start 3000 --sft_batch 1 --sft_copy 3 --context 2048 --steps 0 \
    --eval_every 0 --out "$OUT/copies0"
n=0
for steps in 4000 2800 1600 3600 3400 3000; do
    n=$((n + 1))
    python train.py --env alfworld --model "$OUT/copies$((n - 1))/reference" --cold_start $steps --seed $n --sft_batch 1 \
        --sft_lr 1.5e-3 --sft_muon 0.01 --sft_copy 5 --context 3072 --act_tokens 96 --review_tokens 160 --steps 0 \
        --eval_every 0 --out "$OUT/copies$n"
done
