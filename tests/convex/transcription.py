"""REFERENCE's methods once more, as plain numpy loops over workers, to compare with.

Written from the equations, worker by worker, with nothing of tem_tf but the random
numbers: examples, coins and the quantiser's uniform draws are handed in.
"""

import numpy as np


def gradient(rows, l2, x):
    """Gradient of the mean loss over rows y_j a_j."""
    total = np.zeros_like(x)
    for row in rows:
        total -= row / (1 + np.exp(row @ x))
    return total / len(rows) + l2 * x


def top_k(k):
    def compress(p):
        order = sorted(range(len(p)), key=lambda j: (-abs(p[j]), j))
        sent = np.zeros_like(p)
        sent[order[:k]] = p[order[:k]]
        return sent

    return compress


def hard_threshold(threshold):
    return lambda p: np.array([v if abs(v) >= threshold else 0.0 for v in p])


def identity(p):
    return p.copy()


def quantise(v, uniform):
    norm = np.sqrt(np.sum(v * v))
    return np.array(
        [
            norm * np.sign(x) if norm and u < abs(x) / norm else 0.0
            for x, u in zip(v, uniform, strict=True)
        ]
    )


def run(name, data, l2, step_size, star, start, compress, example, coin, uniform):
    """x after every iteration, and the number of entries sent by each worker.

    Args:
        name: The method's.
        data: (workers, local, d), rows y_j a_j.
        l2: The regulariser's weight.
        step_size: γ.
        star: x*.
        start: x at first.
        compress: Of one vector.
        example: (iterations, workers).
        coin: (iterations, workers).
        uniform: (iterations, workers, d).
    """
    n, s, d = data.shape
    x = start.copy()
    e, h = np.zeros((n, d)), np.zeros((n, d))
    w, y = np.array([start] * n), np.array([start] * n)
    own = np.array([gradient(data[i], l2, start) for i in range(n)])  # EF21's g_i
    average = own.copy()
    points, entries = [], []
    for t in range(len(example)):
        exchanges = name != "ec-local-sgd" or (t + 1) % 10 == 0
        mean_h, direction, sent_now = h.mean(axis=0), np.zeros(d), []
        if name == "ef21-sgdm":
            x = x - step_size * own.mean(axis=0)
        for i in range(n):
            one = data[i][example[t, i]][np.newaxis]
            if name == "ef21-sgdm":
                average[i] = 0.9 * average[i] + 0.1 * gradient(one, l2, x)
                sent = compress(average[i] - own[i])
                own[i] += sent
                sent_now.append(np.count_nonzero(sent))
                continue
            if name == "ec-local-sgd":
                y[i] = y[i] - step_size * gradient(one, l2, y[i])
                sent = np.zeros(d)
                if exchanges:
                    p = e[i] + x - y[i]
                    sent = compress(p)
                    e[i] = p - sent
                direction += sent / n
                sent_now.append(np.count_nonzero(sent))
                continue
            if name == "ec-gd-star":
                g = gradient(data[i], l2, x) - gradient(data[i], l2, star)
            elif "lsvrg" in name:
                g = gradient(one, l2, x) - gradient(one, l2, w[i])
                g = g + gradient(data[i], l2, w[i])
                if coin[t, i]:
                    w[i] = x
            elif "sgd" in name:
                g = gradient(one, l2, x)
            else:
                g = gradient(data[i], l2, x)
            if "diana" in name:
                difference = g - h[i]
                g = difference + mean_h
                h[i] = h[i] + quantise(difference, uniform[t, i]) / np.sqrt(d)
            p = e[i] + step_size * g
            sent = compress(p)
            e[i] = p - sent
            direction += sent / n
            sent_now.append(np.count_nonzero(sent))
        x = x - direction
        if exchanges:
            y[:] = x
        points.append(x)
        entries.append(sent_now)
    return np.array(points), np.array(entries), e
