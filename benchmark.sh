#!/usr/bin/env bash
# What the papers show, run again: every figure and table of HPO and of MCMC-PO that training makes, and what they lack.
#
#   bash benchmark.sh                      all of it, at a laptop's scale: 100,000 steps, 8 seeds (or 4)
#   bash benchmark.sh figure3 table5       some of it
#   bash benchmark.sh --list               what there is, what is done, how long the rest takes here
#   SCALE=paper bash benchmark.sh --ray    the papers' steps and seeds, on a Ray cluster (docs/cluster.md)
#   SCALE=smoke bash benchmark.sh          all of it from end to end within minutes, nothing learned
#
# Stop it at any moment, by Ctrl-C or by the mains, and start it again: nothing is run twice and nothing is lost. It ends
# with docs/results.md (docs/results-paper.md), drawn and printed from results/benchmark/; exit code 1 if a cell failed.
set -euo pipefail
root=$(cd "$(dirname "$0")" && pwd)
PYTHON=${PYTHON:-$(if [ -x "$root/.venv/bin/python" ]; then echo "$root/.venv/bin/python"; else echo python3; fi)}

# Each line: its items | scripts | environments | flags | the papers' seeds x steps | a laptop's. A line is every script on
# every environment; all seeds of one train side by side. The figures' steps are lost with the figures: 1,000,000, beyond
# Figure 8's 880,000. Scripts take an environment's row of HPO Tables 3 and 4 by themselves; the flags say what is unlike it.
: <<'ITEMS'
# HPO Figure 3: SAC-HPO learns faster and further than SAC on MuJoCo, and steadier
figure3 ablations | sac_continuous sac_hpo_continuous | Hopper-v4 | | 4 x 1,000,000 | 8 x 100,000
figure3 | sac_continuous sac_hpo_continuous | HalfCheetah-v4 Walker2d-v4 Ant-v4 Humanoid-v4 | | 4 x 1,000,000 | 8 x 100,000
# HPO Figure 4 and Table 5: and than SAC with normalizing flows, on PyBullet
figure4 table5 | sac_continuous sac_nf_continuous sac_hpo_continuous | HumanoidBulletEnv-v0 HumanoidFlagrunBulletEnv-v0 HumanoidFlagrunHarderBulletEnv-v0 | | 4 x 1,000,000 | 8 x 100,000
# HPO Figure 6 and Table 6: where the dynamics help, in exploration or in training, and is the learned force needed?
figure6 table6 | sac_continuous sac_hpo_continuous | Ant-v4 HumanoidBulletEnv-v0 | | 4 x 1,000,000 | 8 x 100,000
figure6 table6 | baseline1 baseline2 baseline3 | Ant-v4 HumanoidBulletEnv-v0 | | 4 x 1,000,000 | 8 x 100,000
# HPO Figure 7: K; 1/√β0 in exploration; 1/√β0 in training, and 1, where the text says that it degrades
figure7 | sac_hpo_continuous | Hopper-v4 | --leapfrog-steps 1 | 4 x 1,000,000 | 8 x 100,000
figure7 | sac_hpo_continuous | Hopper-v4 | --leapfrog-steps 2 | 4 x 1,000,000 | 8 x 100,000
figure7 | sac_hpo_continuous | Hopper-v4 | --leapfrog-steps 3 | 4 x 1,000,000 | 8 x 100,000
figure7 | sac_hpo_continuous | Ant-v4 | --momentum-std-explore 0.5 | 4 x 1,000,000 | 8 x 100,000
figure7 | sac_hpo_continuous | Ant-v4 | --momentum-std-explore 1.0 | 4 x 1,000,000 | 8 x 100,000
figure7 | sac_hpo_continuous | Ant-v4 | --momentum-std-explore 1.5 | 4 x 1,000,000 | 8 x 100,000
figure7 | sac_hpo_continuous | HumanoidFlagrunHarderBulletEnv-v0 | --momentum-std-train 0.01 | 4 x 1,000,000 | 8 x 100,000
figure7 | sac_hpo_continuous | HumanoidFlagrunHarderBulletEnv-v0 | --momentum-std-train 0.1 | 4 x 1,000,000 | 8 x 100,000
figure7 | sac_hpo_continuous | HumanoidFlagrunHarderBulletEnv-v0 | --momentum-std-train 0.2 | 4 x 1,000,000 | 8 x 100,000
figure7 | sac_hpo_continuous | HumanoidFlagrunHarderBulletEnv-v0 | --momentum-std-train 1.0 | 4 x 1,000,000 | 8 x 100,000
# HPO Figure 8: shapes of the policy's distribution, for which a run keeps its agents (then analysis/policy_shape.py)
figure8 | sac_hpo_continuous | Ant-v4 | --keep-agents | 4 x 1,000,000 | 8 x 100,000
# MCMC-PO Table 1: returns at 500,000 steps; SAC with α 0.05; "Ours" may be either script, §5's networks are HMC's
table1 | sac_continuous | Hopper-v4 HalfCheetah-v4 Ant-v4 | --alpha 0.05 | 5 x 500,000 | 4 x 100,000
table1 | mcmcpo_hmc_continuous mcmcpo_langevin_continuous | Hopper-v4 HalfCheetah-v4 Ant-v4 | | 5 x 500,000 | 4 x 100,000
# What HPO's text says and no figure shows: K = 4; the gradient as it is; HalfCheetah's momenta beside other tasks' rows
texts | sac_hpo_continuous | Hopper-v4 | --leapfrog-steps 3 | 4 x 1,000,000 | 8 x 100,000
texts | sac_hpo_continuous | Hopper-v4 | --leapfrog-steps 4 | 4 x 1,000,000 | 8 x 100,000
texts | baseline1 | Hopper-v4 | | 4 x 1,000,000 | 8 x 100,000
texts | baseline1 | Hopper-v4 | --no-normalize-gradient | 4 x 1,000,000 | 8 x 100,000
cheetah | sac_hpo_continuous | HalfCheetah-v4 | | 4 x 1,000,000 | 8 x 100,000
cheetah | sac_hpo_continuous | HalfCheetah-v4 | --momentum-std-explore 1.5 | 4 x 1,000,000 | 8 x 100,000
cheetah | sac_hpo_continuous | HalfCheetah-v4 | --momentum-std-train 0.1 | 4 x 1,000,000 | 8 x 100,000
# And MCMC-PO's: β fixed at 0.2, near what the controller found there, which such gains never move; K = 10
mcmcpo | mcmcpo_hmc_continuous | Hopper-v4 | | 5 x 500,000 | 4 x 100,000
mcmcpo | mcmcpo_hmc_continuous | Hopper-v4 | --beta 0.2 --pid-p 0 --pid-i 1e-9 --pid-d 0 | 5 x 500,000 | 4 x 100,000
mcmcpo | mcmcpo_hmc_continuous | Hopper-v4 | --leapfrog-steps 10 | 5 x 500,000 | 4 x 100,000
# What the papers lack: every ablation on a task that two cores can do; and the momentum's noise without any force
ablations | baseline1 baseline2 baseline3 noise_only | Hopper-v4 | | 4 x 1,000,000 | 8 x 100,000
noise | sac_hpo_continuous noise_only | HalfCheetah-v4 Hopper-v4 Walker2d-v4 Ant-v4 Humanoid-v4 | | 4 x 1,000,000 | 8 x 100,000
# HPO Figure 5: from pixels, SAC-AE beside SAC-AE-HPO, 500,000 simulator steps; without a GPU it takes days, so it comes last
figure5 | sac_hpo_pixels | dm_control/cheetah-run-v0 | --leapfrog-steps 0 | 4 x 125,000 | 4 x 12,500
figure5 | sac_hpo_pixels | dm_control/cheetah-run-v0 | | 4 x 125,000 | 4 x 12,500
figure5 | sac_hpo_pixels | dm_control/finger-spin-v0 dm_control/walker-walk-v0 | --leapfrog-steps 0 | 4 x 250,000 | 4 x 25,000
figure5 | sac_hpo_pixels | dm_control/finger-spin-v0 dm_control/walker-walk-v0 | | 4 x 250,000 | 4 x 25,000
ITEMS

# Run what is not done, then draw and print what is (analysis/benchmark/page.py)
exec "$PYTHON" "$root/analysis/benchmark/matrix.py" "$@"
