"""Every error a user can meet, in one tree. Each sentence names the culprit and the fix.

LorecastError                 exit code 1
├── ConfigError                         2   a key or value of the experiment file
├── InputError                          3   the user's tables, texts or folders
│   └── BadRowsError                    3   more bad rows than the experiment allows
├── ArtifactError                       4   a stage's output is missing, half-written or foreign
├── KnowledgeError                      5   generation or import of texts
│   ├── EngineError                     5   the language model could not be started or run
│   └── LeakageError                    5   knowledge that may have seen the label
├── EncodingError                       6   text encoder or vectors table
├── TrainingError                       7   a model could not be trained on this input
├── RegistryError                       8   MLflow: unreachable, unknown model or alias
├── ServingError                        9   scorers could not start or answer, over HTTP or offline
├── PromotionError                     10   the gate refused a challenger, or the champion changed
└── ClusterError                       11   no Ray cluster, no access to it, or a job it lost
"""


class LorecastError(Exception):
    """Base of all errors caused by input or environment; never by a bug in lorecast."""

    exit_code = 1


class ConfigError(LorecastError):
    """The experiment file or an override is wrong."""

    exit_code = 2


class InputError(LorecastError):
    """A table, text file or folder of the user cannot be used as it is."""

    exit_code = 3


class BadRowsError(InputError):
    """More rows were rejected than `dataset.max_bad_rows` allows; the rows lie beside."""


class ArtifactError(LorecastError):
    """A stage's output is missing, unfinished or belongs to other inputs."""

    exit_code = 4


class KnowledgeError(LorecastError):
    """Texts could not be generated, imported or read."""

    exit_code = 5


class EngineError(KnowledgeError):
    """The language model could not be started or stopped answering."""


class LeakageError(KnowledgeError):
    """Knowledge was written with sight of interactions that are to be predicted."""


class EncodingError(LorecastError):
    """Texts could not be encoded, or a vectors table does not fit the dataset."""

    exit_code = 6


class TrainingError(LorecastError):
    """The model cannot be trained on this dataset."""

    exit_code = 7


class RegistryError(LorecastError):
    """The MLflow server or the registered model cannot be used."""

    exit_code = 8


class ServingError(LorecastError):
    """Scorers could not be started or kept alive."""

    exit_code = 9


class PromotionError(LorecastError):
    """The champion stays what it is."""

    exit_code = 10


class ClusterError(LorecastError):
    """The Ray cluster does not answer, refuses the token, or cannot take or run the job."""

    exit_code = 11

    @classmethod
    def of_ray(cls, error: BaseException, address: str | None) -> "ClusterError":
        """What Ray raised when it was to be reached at `address`, or started here."""
        reason = str(error).strip().split("\n")[0]
        if address:
            return cls(
                f"no Ray cluster answers at {address} ({reason}): see to compute.address or "
                "RAY_ADDRESS"
            )
        return cls(
            f"Ray did not start ({reason}): the machine is too busy, or short of memory or disk; "
            "run again when it is free, what is finished is kept"
        )
