"""Step 5: is there room? Tenants' quotas (`tenants`); before step 8 the model's adaptive limit (`concurrency`).

Contract: the pipeline asks, and gives back what it was given. Refusals are `errors.Shed`.
"""

from gateway.admission.tenants import Admission, Ticket, forget_worker

__all__ = ["Admission", "Ticket", "forget_worker"]
