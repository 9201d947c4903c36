// The formulas of the page. Each has its twin in onedial.core.maths, and a browser test holds the two equal to 1e-9.
"use strict";

const formulas = {
  // ln n! for n = 0 … 4096, by adding logarithms
  logFactorial: (() => {
    const table = [0];
    for (let n = 1; n <= 4096; n += 1) table.push(table[n - 1] + Math.log(n));
    return (n) => table[n];
  })(),

  // Population standard deviation of a group with k correct answers of G: √(k(G−k))/G.
  groupSigma: (k, size) => Math.sqrt(k * (size - k)) / size,

  // W(p) = E[σ̂^(2−α); 0 < k < G]/(pq), the factor before ∇p in the expected gradient (dispersion.weight).
  weight: (p, size, alpha) => {
    let sum = 0;
    for (let k = 1; k < size; k += 1) {
      const choose = formulas.logFactorial(size) - formulas.logFactorial(k) - formulas.logFactorial(size - k);
      const sigma = Math.log(k * (size - k)) / 2 - Math.log(size);
      sum += Math.exp(choose + (k - 1) * Math.log(p) + (size - k - 1) * Math.log1p(-p) + (2 - alpha) * sigma);
    }
    return sum;
  },

  // (pq)^(−α/2): W as the group grows without bound (dispersion.limit_weight).
  limitWeight: (p, alpha) => (p * (1 - p)) ** (-alpha / 2),

  // E[σ̂] of a group of G (dispersion.expected_sigma).
  expectedSigma: (p, size) => formulas.weight(p, size, 1) * p * (1 - p),

  // p^G + q^G: all answers correct, or all wrong (dispersion.silent_probability).
  silentChance: (p, size) => p ** size + (1 - p) ** size,

  // E[σ̂]/√(pq) (dispersion.fidelity).
  fidelity: (p, size) => formulas.expectedSigma(p, size) / Math.sqrt(p * (1 - p)),

  // The smallest G whose fidelity reaches the target; null beyond 4096 (dispersion.size_for_fidelity).
  sizeForFidelity: (p, target) => {
    let high = 2;
    while (formulas.fidelity(p, high) < target) {
      high *= 2;
      if (high > 4096) return null;
    }
    let low = high / 2;
    while (high - low > 1) {
      const middle = Math.floor((low + high) / 2);
      if (formulas.fidelity(p, middle) >= target) high = middle;
      else low = middle;
    }
    return high;
  },

  // mσ²/(1 + ρmσ²) with m = G − 1: what a group of G teaches, in units of one noise-free rollout (dispersion.utility).
  utility: (p, size, rho) => {
    const signal = (size - 1) * p * (1 - p);
    return signal / (1 + rho * signal);
  },

  // The group size of 2 … 512 with the most utility per rollout.
  bestSize: (p, rho) => {
    let best = 2;
    for (let size = 3; size <= 512; size += 1) {
      if (formulas.utility(p, size, rho) / size > formulas.utility(p, best, rho) / best) best = size;
    }
    return best;
  },

  // β·σ(−βm): the size of DPO's gradient on a pair with margin m (preference.pair_loss).
  dpoCoefficient: (beta, margin) => beta / (1 + Math.exp(beta * margin)),

  // ½^(2−α): the size of GRPO's gradient on a group of one correct and one wrong answer.
  pairCoefficient: (alpha) => formulas.groupSigma(1, 2) ** (2 - alpha),

  // Rewards that a row trains on: 0 and 1, or −1 and 1, less a length penalty (advantages.shape_rewards).
  shapedRewards: (row, rewards, lengths, budget) =>
    rewards.map((reward, i) => {
      const penalty = row.buffer ? Math.max(-1, Math.min(0, (budget - row.buffer - lengths[i]) / row.buffer)) : 0;
      return (row.signed ? 2 * reward - 1 : reward) + penalty;
    }),

  // Advantages of one group under a row of the algorithm table (advantage.advantages).
  advantages: (row, rewards) => {
    const size = rewards.length;
    const sum = rewards.reduce((a, b) => a + b, 0);
    const silent = rewards.every((reward) => reward === rewards[0]);
    const centred = rewards.map((reward) => {
      if (row.baseline === "none") return reward;
      if (silent) return 0;
      if (row.baseline === "leave_one_out") return size > 1 ? reward - (sum - reward) / (size - 1) : 0;
      return reward - sum / size;
    });
    if (row.dial === 0) return centred;
    const mean = sum / size;
    const squares = rewards.reduce((total, reward) => total + (reward - mean) ** 2, 0);
    const sigma = size > row.ddof ? Math.sqrt(squares / (size - row.ddof)) : 0;
    return centred.map((value) => value / (sigma + row.eps) ** row.dial);
  },

  // Weight of one token of each answer in the loss of a step that holds these answers only (aggregate.token_weights).
  tokenWeights: (aggregate, lengths, budget) => {
    const tokens = lengths.reduce((a, b) => a + b, 0);
    const of = {
      sequence_mean: (length) => 1 / (lengths.length * length),
      token_mean: () => 1 / tokens,
      group_token_mean: () => 1 / tokens,
      fixed_length: () => 1 / (lengths.length * budget),
      sequence_sum: () => 1 / lengths.length,
    }[aggregate];
    return lengths.map(of);
  },
};
