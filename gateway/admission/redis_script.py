"""The decision as one Lua script, which Redis or Valkey runs alone: nothing else happens in between.

Contract: the server's clock is the only one (`TIME`), so that gateways' clocks do not matter. One call settles
what the gateway has given back since it last asked for this tenant, then takes all of rate, concurrency and
bytes, or nothing. Both keys carry the tenant's digest as a hash tag, so that a cluster keeps them together.

    KEYS[1]  hash: level (ns) and time (us) of the bucket, day (UTC, since 1970) and its bytes
    KEYS[2]  sorted set: requests in flight by their ticket, scored with the time (us) at which a slot comes back
             by itself, should the gateway that holds it have died
    ARGV     emission (ns), burst (ns), most in flight, lease (us), bytes a day, bytes of this request (0 and -1:
             no such limit), this request's ticket (empty: only settle), bytes to add, then the tickets given back
    answer   {0, 0} admitted; {1, 0} concurrency, {2, us to wait} rate, {3, us to wait} bytes

The rate is GCRA in its leaky-bucket form (ITU-T I.371, annex A: equal to virtual scheduling): the level falls
by the time that passed and rises by one emission a request. Kept as a level, every number stays far below 2^53,
where Lua's doubles are exact; an arrival time in nanoseconds would not.
"""

from __future__ import annotations

import hashlib
from typing import Final

DECIDE: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local emission, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local most, lease = tonumber(ARGV[3]), tonumber(ARGV[4])
local quota, size = tonumber(ARGV[5]), tonumber(ARGV[6])
local ticket, add = ARGV[7], tonumber(ARGV[8])
local day = math.floor(now / 86400000000)

local function whole(number) return string.format('%.0f', number) end

for first = 9, #ARGV, 1000 do
  redis.call('ZREM', KEYS[2], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
local kept = redis.call('HMGET', KEYS[1], 'level', 'time', 'day', 'bytes')
local used = 0
if tonumber(kept[3]) == day then used = tonumber(kept[4]) end
if add > 0 then
  used = used + add
  redis.call('HSET', KEYS[1], 'day', whole(day), 'bytes', whole(used))
  redis.call('EXPIRE', KEYS[1], 172800)
end
if ticket == '' then return {0, 0} end

if most > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', whole(now))
  if redis.call('ZCARD', KEYS[2]) >= most then return {1, 0} end
end
local level, since = 0, now
if emission > 0 then
  level, since = tonumber(kept[1]) or 0, tonumber(kept[2]) or now
  if now > since then
    level = math.max(0, level - (now - since) * 1000)
    since = now
  end
  level = level + emission
  if level > burst then return {2, math.ceil((level - burst) / 1000)} end
end
if quota >= 0 and used + size > quota then return {3, (day + 1) * 86400000000 - now} end

if most > 0 then
  redis.call('ZADD', KEYS[2], whole(now + lease), ticket)
  redis.call('PEXPIRE', KEYS[2], whole(lease / 1000 + 1000))
end
if emission > 0 then
  redis.call('HSET', KEYS[1], 'level', whole(level), 'time', whole(since))
end
if quota >= 0 then
  redis.call('HSET', KEYS[1], 'day', whole(day), 'bytes', whole(used + size))
end
if quota >= 0 then
  redis.call('EXPIRE', KEYS[1], 172800)
elseif emission > 0 then
  local left = math.ceil(level / 1000000) + 1000
  if redis.call('PTTL', KEYS[1]) < left then redis.call('PEXPIRE', KEYS[1], whole(left)) end
end
return {0, 0}
"""
"""Takes all or nothing."""

RENEW: Final = """
local clock = redis.call('TIME')
local until_ = string.format('%.0f', clock[1] * 1000000 + clock[2] + tonumber(ARGV[1]))
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], until_, ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', tonumber(ARGV[1]) / 1000 + 1000))
return 0
"""
"""Keeps slots; KEYS[1]: the sorted set, ARGV: lease (us), tickets. A slot that ran out while its request went on
is taken again: who is in flight is the truth, whatever the limit says."""

DECIDE_SHA: Final = hashlib.sha1(DECIDE.encode(), usedforsecurity=False).hexdigest()
RENEW_SHA: Final = hashlib.sha1(RENEW.encode(), usedforsecurity=False).hexdigest()


def keys_of(tenant: str) -> tuple[str, str]:
    """A tenant's two keys; its name may hold anything, its digest may not."""
    digest = hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"tidegate:{{{digest}}}:used", f"tidegate:{{{digest}}}:held"
