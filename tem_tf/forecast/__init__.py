"""How long a training step will take, by every way to exchange, before it is trained.

`measuring` times the link and this machine's work, `costs` says what follows for other
links and numbers of workers, `report` is the table.
"""

from tem_tf.forecast.costs import Link
from tem_tf.forecast.report import Forecast, forecast_of, predict

__all__ = ["Forecast", "Link", "forecast_of", "predict"]
