"""How long a training step will take, by every way to exchange, before it is trained.

`measuring` times the link and this machine's work, `costs` says what follows for other
links and numbers of workers, `report` is the table and the figure.
"""

from tem_tf.forecast.costs import Link
from tem_tf.forecast.report import Forecast, predict

__all__ = ["Forecast", "Link", "predict"]
