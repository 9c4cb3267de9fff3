"""Every exception that the three programs raise on purpose.

ScorequeueError
├── UsageError                  2  wrong usage, or input that cannot be read at all
│   ├── InputError              2  a file is missing, is a directory, is not what its format says
│   │   └── OutputError         2  a file or standard output cannot be written
│   ├── MissingFieldError       2  the text field is not among the columns
│   ├── ContentConflictError    2  other content was sent under the same idempotency key
│   ├── LimitError              2  something is larger than the limit that it names
│   ├── MissingExtraError       2  an optional dependency is not installed
│   └── DivergedError           2  the settings made a fit's loss infinite or undefined
├── RedisUnavailableError       3  Redis cannot be reached
│   ├── RedisNotReadyError      3  Redis answered, and takes no writes for now: a failover, a full disk
│   ├── RedisRefusedError       3  Redis answered no: auth, version
│   │   └── RedisFullError      3  Redis has no memory left for new rows
│   ├── UploadLostError         3  Redis came back without the end of an upload
│   └── ProtocolTooNewError     3  the namespace is served by a newer Scorequeue
├── NotFinishedError            4  gave up waiting, or results asked for before the end
│   └── ResultsChangedError     4  the job ended anew after its results were read
├── MarkHeldError               4  gave up waiting for another program that is at work in the registry
├── JobNotFoundError            5  no such job, or its results have expired
│   └── JobDeletedError         5  somebody deleted it within the last hour
├── VersionError                6
│   ├── VersionNotFoundError    6  no such checkpoint version, or the registry is empty
│   └── VerificationError       6  a checkpoint version does not match its manifest
│       └── ConversionError     6  OpenVINO cannot convert it
├── GateRefusedError            7  the promote gate said no
├── JobNotCleanError            8  too many failed rows, not completed, or an audit differs
│   └── JobClosedError          8  the job ended early while it was uploaded
└── InternalError               1  a bug or a sick machine; the log has the trace
    ├── CodecError              1  bytes in the ledger that this program cannot read
    ├── ScoreCountError         1  a backend returned another number of scores than rows
    ├── DeviceSickError         1  the golden sentences fail on this device
    └── StoppingError           1  broken off, because the worker was told to stop

The number is the exit code of a command that ends with the error. A message says what was
expected, what came, and what to do next.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit status means; the same in all three programs."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    REDIS = 3
    NOT_FINISHED = 4
    NO_SUCH_JOB = 5
    NO_SUCH_VERSION = 6
    GATE_REFUSED = 7
    NOT_CLEAN = 8
    INTERRUPTED = 130


class ScorequeueError(Exception):
    """Base of every error that a caller is expected to meet."""

    exit_code: ExitCode = ExitCode.UNEXPECTED


class UsageError(ScorequeueError):
    """The caller asked for something that cannot be."""

    exit_code = ExitCode.USAGE


class InputError(UsageError):
    """An input cannot be read as a whole (one bad row is a failed row, not this)."""


class OutputError(InputError):
    """A file, or standard output, cannot be written; what was to be written there is still to be had."""


class MissingFieldError(UsageError):
    """The named text or id field is not among the input's columns."""


class ContentConflictError(UsageError):
    """A chunk or an option differs from what the same idempotency key was used for."""


class LimitError(UsageError):
    """Something is larger than a limit; the message names the limit and its setting."""


class MissingExtraError(UsageError):
    """An optional dependency is missing; the message is its install line."""


class DivergedError(UsageError):
    """A fit's loss is infinite or undefined: with these settings nothing more will be learned."""


class RedisUnavailableError(ScorequeueError):
    """Redis cannot be reached."""

    exit_code = ExitCode.REDIS


class RedisNotReadyError(RedisUnavailableError):
    """Redis was reached, and takes no writes for now; it may again by itself."""


class RedisRefusedError(RedisUnavailableError):
    """Redis was reached and said no."""


class RedisFullError(RedisRefusedError):
    """Redis has no memory left for new rows; it has again when workers have drained it."""


class UploadLostError(RedisUnavailableError):
    """Redis came back without the end of an upload: what is missing has to be sent again."""


class ProtocolTooNewError(RedisUnavailableError):
    """A newer Scorequeue wrote this namespace or message."""


class NotFinishedError(ScorequeueError):
    """The job has not ended (yet)."""

    exit_code = ExitCode.NOT_FINISHED


class ResultsChangedError(NotFinishedError):
    """The job was tried again after its results were read: they are to be read again before they may go."""


class MarkHeldError(ScorequeueError):
    """Another program is at work in the registry, and has not ended while this one waited."""

    exit_code = ExitCode.NOT_FINISHED


class JobNotFoundError(ScorequeueError):
    """No such job, or its results have expired."""

    exit_code = ExitCode.NO_SUCH_JOB


class JobDeletedError(JobNotFoundError):
    """The job was deleted within the last hour."""


class VersionError(ScorequeueError):
    """A checkpoint version cannot be used."""

    exit_code = ExitCode.NO_SUCH_VERSION


class VersionNotFoundError(VersionError):
    """The registry has no such version, or none at all."""


class VerificationError(VersionError):
    """A version's files are not what its manifest says."""


class ConversionError(VerificationError):
    """OpenVINO cannot convert this architecture, or computes other scores with it."""


class GateRefusedError(ScorequeueError):
    """The promote gate said no."""

    exit_code = ExitCode.GATE_REFUSED


class JobNotCleanError(ScorequeueError):
    """The job ended with more failures than allowed, or an audit differs."""

    exit_code = ExitCode.NOT_CLEAN


class JobClosedError(JobNotCleanError):
    """The job was cancelled, expired or failed before all of it had arrived; what was scored stays."""


class InternalError(ScorequeueError):
    """Our fault or the machine's, never the caller's."""


class CodecError(InternalError):
    """Bytes in the ledger are not of a format this program reads."""


class ScoreCountError(InternalError):
    """A backend returned another number of scores than it was given rows."""


class DeviceSickError(InternalError):
    """The device fails on sentences that it scored well before; its supervisor should act."""


class StoppingError(InternalError):
    """The worker was told to stop meanwhile; nothing is wrong with what was broken off."""
