"""What the papers show and say: the arms of each figure and table, printed numbers, and the claims of the texts."""

import dataclasses

MUJOCO = "HalfCheetah-v4 Hopper-v4 Walker2d-v4 Ant-v4 Humanoid-v4".split()
BULLET = "HumanoidBulletEnv-v0 HumanoidFlagrunBulletEnv-v0 HumanoidFlagrunHarderBulletEnv-v0".split()
PIXELS = "dm_control/cheetah-run-v0 dm_control/finger-spin-v0 dm_control/walker-walk-v0".split()
ABLATED = ["Ant-v4", "HumanoidBulletEnv-v0"]
THREE = ["Hopper-v4", "HalfCheetah-v4", "Ant-v4"]
HARDER = BULLET[2]
SAC, NF, HPO = ("sac_continuous", ""), ("sac_nf_continuous", ""), ("sac_hpo_continuous", "")  # script and flags
BASELINE1, BASELINE2, BASELINE3, NOISE = ((name, "") for name in ("baseline1", "baseline2", "baseline3", "noise_only"))
AE, AE_HPO = ("sac_hpo_pixels", "--leapfrog-steps 0"), ("sac_hpo_pixels", "")
SAC05, HMC, LANGEVIN = (
    ("sac_continuous", "--alpha 0.05"),
    ("mcmcpo_hmc_continuous", ""),
    ("mcmcpo_langevin_continuous", ""),
)
STEPS = {k: ("sac_hpo_continuous", f"--leapfrog-steps {k}") for k in (1, 2, 3, 4)}
EXPLORE = {std: ("sac_hpo_continuous", f"--momentum-std-explore {std}") for std in (0.5, 1.0, 1.5)}
TRAIN = {std: ("sac_hpo_continuous", f"--momentum-std-train {std}") for std in (0.01, 0.1, 0.2, 1.0)}
RAW = ("baseline1", "--no-normalize-gradient")
FIXED = ("mcmcpo_hmc_continuous", "--beta 0.2 --pid-p 0 --pid-i 1e-9 --pid-d 0")  # float32 moves no 2e8
HMC10 = ("mcmcpo_hmc_continuous", "--leapfrog-steps 10")
NAMES = {SAC: "SAC", NF: "SAC-NF", HPO: "SAC-HPO", AE: "SAC-AE", AE_HPO: "SAC-AE-HPO", SAC05: "SAC, α 0.05"}
NAMES |= {BASELINE1: "baseline-1", BASELINE2: "baseline-2", BASELINE3: "baseline-3", NOISE: "noise only"}
NAMES |= {HMC: "MCMC-PO, HMC", LANGEVIN: "MCMC-PO, Langevin"} | {arm: f"K = {k}" for k, arm in STEPS.items()}
NAMES |= {RAW: "baseline-1, gradient as it is", FIXED: "MCMC-PO, HMC, β = 0.2", HMC10: "MCMC-PO, HMC, K = 10"}
NAMES |= {arm: f"1/√β0 exploring {std}" for std, arm in EXPLORE.items()}
NAMES |= {arm: f"1/√β0 training {std}" for std, arm in TRAIN.items()}
PRINTED = {  # the papers' numbers
    "table5": dict(zip(BULLET, (("1357 ± 269", "1695 ± 258", "2518 ± 219"), ("61 ± 25", "148 ± 59", "164 ± 32"),
                                ("45 ± 21", "77 ± 34", "113 ± 28")))),
    "table1": dict(zip(THREE, (("3281.1 ± 168.1", *["4021.3 ± 172.2"] * 2), ("2613.2 ± 102.8", *["2925.7 ± 133.1"] * 2),
                               ("3492.1 ± 126.9", *["4037.1 ± 158.1"] * 2)))),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Section:
    item: str
    title: str
    arms: tuple  # script and flags of each curve
    env_ids: tuple
    measures: tuple = ("best", "mean")
    beside: tuple = ()  # arms of other items, shown as far as this one's go


SECTIONS = [
    Section("table5", "HPO Table 5: best return, PyBullet", (SAC, NF, HPO), tuple(BULLET), ("best",)),
    Section(
        "table1", "MCMC-PO Table 1: return at the end", (SAC05, HMC, LANGEVIN), tuple(THREE), ("last",), (SAC, HPO)
    ),
    Section("figure3", "HPO Figure 3: MuJoCo", (SAC, HPO), tuple(MUJOCO)),
    Section("figure4", "HPO Figure 4: PyBullet", (SAC, NF, HPO), tuple(BULLET)),
    Section("figure5", "HPO Figure 5: from pixels", (AE, AE_HPO), tuple(PIXELS)),
    Section(
        "figure6", "HPO Figure 6 and Table 6: ablations", (SAC, HPO, BASELINE1, BASELINE2, BASELINE3), tuple(ABLATED)
    ),
    Section("figure7", "HPO Figure 7 (a): leapfrog steps", tuple(STEPS[k] for k in (1, 2, 3)), ("Hopper-v4",)),
    Section("figure7", "HPO Figure 7 (b): 1/√β0 in exploration", tuple(EXPLORE.values()), ("Ant-v4",)),
    Section("figure7", "HPO Figure 7 (c): 1/√β0 in training", tuple(TRAIN.values()), (HARDER,)),
    Section("texts", "HPO 5.2.2, in its text: K = 4", (STEPS[3], STEPS[4]), ("Hopper-v4",)),
    Section("texts", "HPO 4.3, in its text: the gradient's length", (BASELINE1, RAW), ("Hopper-v4",)),
    Section("cheetah", "HPO 5.1.1, in its text: momenta", (HPO, EXPLORE[1.5], TRAIN[0.1]), ("HalfCheetah-v4",)),
    Section(
        "mcmcpo",
        "MCMC-PO 1 and 3.3, in its text: β fixed, K = 10",
        (HMC, FIXED, HMC10),
        ("Hopper-v4",),
        ("last", "mean"),
    ),
    Section(
        "ablations",
        "What the papers lack: the ablations on Hopper-v4",
        (SAC, HPO, BASELINE1, BASELINE2, BASELINE3, NOISE),
        ("Hopper-v4",),
    ),
    Section("noise", "What the papers lack: the momentum's noise alone", (SAC, HPO, NOISE), tuple(MUJOCO)),
]


@dataclasses.dataclass(frozen=True)
class Claim:
    where: str
    text: str
    wanted: str  # of the parts: all, any, same, differ, no more (intervals.verdict)
    measure: str  # "spread" compares how far seeds lie apart
    env_ids: tuple
    couples: tuple  # X, Y: a part is X - Y on an environment

    def parts(self) -> list[tuple]:
        return [(env_id, x, y, self.measure) for x, y in self.couples for env_id in self.env_ids]


def claims(where: str, env_ids, *rows) -> list[Claim]:
    return [Claim(where, text, *how, tuple(env_ids), tuple(couples)) for text, how, *couples in rows]


FASTER, MORE, ENDS, STEADIER = ("all", "mean"), ("all", "best"), ("all", "last"), ("all", "spread")
SAME, ANY, DIFFER = ("same", "best"), ("any", "best"), ("differ", "best")
NO_MORE, ENDS_NO_HIGHER = ("no more", "best"), ("no more", "last")
E05, E10, E15 = EXPLORE.values()
T001, T01, T02, T1 = TRAIN.values()
CLAIMS = [
    *claims(
        "HPO 5.1.1", MUJOCO,
        ("SAC-HPO learns faster than SAC on all five tasks", FASTER, (HPO, SAC)),
        ("SAC-HPO reaches more than SAC on all five tasks", MORE, (HPO, SAC)),
        ("SAC-HPO's seeds lie closer together on every task", STEADIER, (HPO, SAC)),
    ),
    *claims(
        "HPO 5.1.1", ["Ant-v4", "Humanoid-v4"],
        ("SAC-HPO reaches more than SAC on the tasks of many dimensions", MORE, (HPO, SAC)),
    ),
    *claims(
        "HPO 5.1.1", ["HalfCheetah-v4"],
        ("HalfCheetah needs a wide momentum in training: 1/√β0 = 1 reaches more than other tasks' 0.1",
         MORE, (HPO, TRAIN[0.1])),
        ("a wrong momentum costs less in exploration (1/√β0 1.5 for 0.5) than in training (0.1 for 1)",
         MORE, (E15, TRAIN[0.1])),
    ),
    *claims(
        "HPO 5.1.2", BULLET,
        ("SAC-HPO learns fastest on the three PyBullet tasks", FASTER, (HPO, SAC), (HPO, NF)),
        ("SAC-HPO reaches most on the three PyBullet tasks", MORE, (HPO, SAC), (HPO, NF)),
        ("SAC-NF reaches more than SAC on the three PyBullet tasks", MORE, (NF, SAC)),
    ),
    *claims(
        "HPO 5.1.3", PIXELS,
        ("SAC-AE-HPO learns faster than SAC-AE on all three tasks", FASTER, (AE_HPO, AE)),
        ("SAC-AE-HPO reaches more than SAC-AE on all three tasks", MORE, (AE_HPO, AE)),
    ),
    *claims(
        "HPO 5.2.1", ABLATED,
        ("the learned force reaches more than the plain leapfrog (baseline-1)", MORE, (HPO, BASELINE1)),
        ("with the learned force seeds lie closer together than with the plain leapfrog", STEADIER, (HPO, BASELINE1)),
        ("the plain leapfrog in exploration and training (baseline-1) reaches more than in one (baselines 2, 3)",
         MORE, (BASELINE1, BASELINE2), (BASELINE1, BASELINE3)),
        ("the leapfrog in exploration alone (baseline-2), and in training alone (baseline-3), reaches more than SAC",
         MORE, (BASELINE2, SAC), (BASELINE3, SAC)),
        ("the leapfrog in exploration alone (baseline-2) reaches more than in training alone (baseline-3)",
         MORE, (BASELINE2, BASELINE3)),
    ),
    *claims(
        "HPO 5.2.2", ["Hopper-v4"],
        ("K = 2 and K = 3 reach more than K = 1", MORE, (STEPS[2], STEPS[1]), (STEPS[3], STEPS[1])),
        ("K = 2 and K = 3 reach about the same", SAME, (STEPS[3], STEPS[2])),
        ("a large K is of no use: K = 4 reaches no more than K = 3", NO_MORE, (STEPS[4], STEPS[3])),
    ),
    *claims(
        "HPO 4.3", ["Hopper-v4"],
        ("baseline-1 with the gradient divided by its length reaches more than with the gradient as it is",
         MORE, (BASELINE1, RAW)),
    ),
    *claims(
        "HPO 5.2.2", ["Ant-v4"],
        ("the return is sensitive to 1/√β0 in exploration", DIFFER, (E05, E10), (E05, E15), (E10, E15)),
        ("of 1/√β0 in exploration the largest is not the best", ANY, (E05, E15), (E10, E15)),
    ),
    *claims(
        "HPO 5.2.2", [HARDER],
        ("the return is not sensitive to 1/√β0 in training, 0.01 to 0.2", SAME, (T001, T01), (T001, T02), (T01, T02)),
        ("1/√β0 = 1 in training reaches less than 0.01 to 0.2", MORE, (T001, T1), (T01, T1), (T02, T1)),
    ),
    *claims(
        "MCMC-PO 5", THREE,
        ("MCMC-PO (HMC) ends above SAC on all three tasks", ENDS, (HMC, SAC05)),
    ),
    *claims(
        "MCMC-PO 5, if it means this one", THREE,
        ("MCMC-PO (Langevin) ends above SAC on all three tasks", ENDS, (LANGEVIN, SAC05)),
    ),
    *claims(
        "MCMC-PO 1", ["Hopper-v4"],
        ("PID control of β steadies learning: seeds lie closer together than at a fixed 0.2", STEADIER, (HMC, FIXED)),
        ("MCMC-PO (HMC) with PID control of β ends higher than at a fixed 0.2", ENDS, (HMC, FIXED)),
    ),
    *claims(
        "MCMC-PO 3.3", ["Hopper-v4"],
        ("about 5 leapfrog steps are enough: 10 end no higher", ENDS_NO_HIGHER, (HMC10, HMC)),
    ),
    *claims(
        "ours, in neither paper", MUJOCO,
        ("the dynamics reach more than their noise alone on all five tasks", MORE, (HPO, NOISE)),
    ),
]  # fmt: skip
