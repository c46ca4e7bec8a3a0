"""What can go wrong when releases, keys and apps are managed: one tree, each a sentence that says what to do."""


class ReleaseError(Exception):
    """A release, key or app operation that did not happen."""


class BadName(ReleaseError):
    """A name of an app or model that cannot be a path segment."""


class BadKey(ReleaseError):
    """A key file that is missing, unreadable or of the wrong kind."""


class BadArtifact(ReleaseError):
    """A file that cannot be published as the release it is meant to be."""


class BadReleaseTerms(ReleaseError):
    """A number, specifier, parameter or date that a release cannot have."""


class UntrustedHistory(ReleaseError):
    """A catalogue in the store that the publisher's keys did not sign, or that is not where it belongs."""


class BadDocument(ReleaseError):
    """A document of the store that is not what its path promises."""


class UnknownApp(ReleaseError):
    """An app or key that the store does not have."""


class UnknownModel(ReleaseError):
    """A model that has neither releases nor a rollout."""


class AppExists(ReleaseError):
    """An app that is there already."""


class BadPlan(ReleaseError):
    """A rollout that cannot be meant so."""


class NotNow(ReleaseError):
    """A change that does not follow the state that the rollout is in."""


class NotAllowed(ReleaseError):
    """A change that this operator may not make alone."""


class SomeoneWroteInBetween(ReleaseError):
    """Two operators at once: the other was first, and nothing of this change was written."""
