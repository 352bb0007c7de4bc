#!/usr/bin/env bash
# Installs the project, then trains a pruned network on two workers of this machine.
#
#     ./launch/quickstart.sh
#
# The data is scikit-learn's handwritten digits, which comes with it. A few minutes on
# two cores, the installation aside. Arguments go to main.py, after those below.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/setup_environment.sh"
setup_environment studies

python launch/local.py --workers 2 -- python main.py \
  --datasource digits --arch simple-cnn --target_sparsity 0.9 \
  --compressor hard_threshold --threshold 0.01 \
  --batch_size 100 --train_iterations 1000 \
  --logdir runs/quickstart --overwrite "$@"

if [[ -z $(active_environment) ]]; then
  echo "To go on from here: cd $(printf %q "$PWD") && source .venv/bin/activate"
fi
