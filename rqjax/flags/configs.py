"""The configurations that are shipped: `rqjax configs`, then `rqjax train --config NAME:VARIANT --workdir DIR`.

`rqjax train --config NAME:VARIANT --print_config` prints the fields of one.
"""

from absl import flags

FLAGS = flags.FlagValues()
