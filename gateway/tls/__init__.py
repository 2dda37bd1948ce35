"""TLS of the gateway's own ports and to its model servers.

Contract: files are read and judged in one step (`reading`), so that what was judged is what is used; contexts
are made from what was read (`contexts`), never from the files again. What a certificate says of its owner is
read by one parser on both doors (`peer`). Private keys are in no `repr` and in no message.
"""

from gateway.tls.contexts import RollingContext, client_context, server_context
from gateway.tls.material import ClientFiles, Material, ServerFiles
from gateway.tls.mode import ClientCertificates, client_certificates
from gateway.tls.peer import PeerCertificate, certificate_of, certificate_of_scope, user_of
from gateway.tls.reading import Problem, read_material, watched

__all__ = [
    "ClientCertificates",
    "ClientFiles",
    "Material",
    "PeerCertificate",
    "Problem",
    "RollingContext",
    "ServerFiles",
    "certificate_of",
    "certificate_of_scope",
    "client_certificates",
    "client_context",
    "read_material",
    "server_context",
    "user_of",
    "watched",
]
