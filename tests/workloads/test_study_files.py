"""Files of studies: what several processes may do at once, and what they may not."""

import threading

from tem_tf.workloads.study_files import alone_in


def test_a_second_report_waits_for_the_first(tmp_path):
    place, order = tmp_path / "report", []

    def second():
        with alone_in(place):
            order.append("second")

    waiting = threading.Thread(target=second)
    with alone_in(place):
        waiting.start()
        waiting.join(timeout=0.5)
        assert waiting.is_alive()
        order.append("first")
    waiting.join(timeout=10)
    assert order == ["first", "second"]
