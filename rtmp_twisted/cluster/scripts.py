"""The Lua scripts that Redis runs for the cluster: all that is written there is written by these. Used by store.

A script runs without interruption by anybody else's command, so each checks node and epoch in the same step in which it
writes. KEYS and ARGV are named in the comments. Keys of nodes and accepted starts are made inside where a script finds
them by itself: all keys have to be in one Redis, so Redis Cluster is not supported.
"""

from __future__ import annotations

from typing import Final

_PLACE: Final = """
local function place(key)
  local fields = redis.call('HGETALL', key)
  if #fields == 0 then return nil end
  local found = {}
  for i = 1, #fields, 2 do found[fields[i]] = fields[i + 1] end
  return found
end
"""

EPOCH: Final = """
-- KEYS: counter. ARGV: its life (s). Returns the number of the next claim.
local epoch = redis.call('INCR', KEYS[1])
redis.call('EXPIRE', KEYS[1], ARGV[1])
return epoch
"""

CLAIM: Final = (
    _PLACE
    + """
-- KEYS: place, counter. ARGV: node, epoch, whether a later epoch wins ('1'), life of the place (ms) and of the counter
-- (s), events, what to tell there, prefix, number of fields, the place's fields, then the accepted start's id and
-- fields. Returns 1, or the place as JSON where another one has it.
local held = place(KEYS[1])
local epoch = tonumber(ARGV[2])
if held then
  local own = held.node == ARGV[1]
  local theirs = tonumber(held.epoch)
  if not ((own and theirs <= epoch) or (ARGV[3] == '1' and theirs < epoch)) then return cjson.encode(held) end
end
local size = tonumber(ARGV[9])
local id = ARGV[10 + size]
if id then -- of a node that is there, also where it has not said so yet
  local node = ARGV[8] .. ':node:' .. ARGV[1]
  local said = redis.call('GET', node)
  if said == 'gone' then return redis.error_reply('DEAD') end
  if not said then redis.call('SET', node, '{}', 'PX', ARGV[4]) end
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'node', ARGV[1], 'epoch', ARGV[2], unpack(ARGV, 10, 9 + size))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if tonumber(redis.call('GET', KEYS[2]) or '0') < epoch then redis.call('SET', KEYS[2], ARGV[2]) end
redis.call('EXPIRE', KEYS[2], ARGV[5])
if id then
  redis.call('HSET', ARGV[8] .. ':publish:' .. id, 'node', ARGV[1], unpack(ARGV, 11 + size))
  redis.call('SADD', ARGV[8] .. ':publishes:' .. ARGV[1], id)
  redis.call('SADD', ARGV[8] .. ':nodes', ARGV[1])
end
redis.call('PUBLISH', ARGV[6], ARGV[7])
return 1
"""
)

REFRESH: Final = """
-- KEYS: place and counter of each channel. ARGV: node, life of a place (ms) and of a counter (s), then each epoch.
-- Returns number and state of each channel that is not as it was: 0, nobody has it, or an earlier claim; 1, a later
-- claim.
local changed = {}
for i = 1, #KEYS, 2 do
  local epoch = ARGV[3 + (i + 1) / 2]
  local held = redis.call('HMGET', KEYS[i], 'node', 'epoch')
  if held[1] == ARGV[1] and held[2] == epoch then
    redis.call('PEXPIRE', KEYS[i], ARGV[2])
    if tonumber(redis.call('GET', KEYS[i + 1]) or '0') < tonumber(epoch) then redis.call('SET', KEYS[i + 1], epoch) end
    redis.call('EXPIRE', KEYS[i + 1], ARGV[3])
  else
    local later = held[1] and tonumber(held[2]) >= tonumber(epoch)
    changed[#changed + 1] = (i - 1) / 2
    changed[#changed + 1] = later and 1 or 0
  end
end
return changed
"""

RELEASE: Final = """
-- KEYS: place. ARGV: node, epoch, events, what to tell there. Returns whether it was this node's, by this claim.
local held = redis.call('HMGET', KEYS[1], 'node', 'epoch')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
"""

LOCATE: Final = (
    _PLACE
    + """
-- KEYS: places. Returns a JSON list: each place, or false.
local found = {}
for i = 1, #KEYS do found[i] = place(KEYS[i]) or false end
return cjson.encode(found)
"""
)

HEARTBEAT: Final = """
-- KEYS: this node, all nodes. ARGV: node, what it says of itself, life (ms). Returns 0 where the others have taken it
-- for dead, and tell the ends of what it had accepted: that is final.
if redis.call('GET', KEYS[1]) == 'gone' then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('SADD', KEYS[2], ARGV[1])
return 1
"""

LEAVE: Final = """
-- KEYS: this node, all nodes, its accepted starts. ARGV: node. It has stopped; what is left of it is for the others.
if redis.call('GET', KEYS[1]) ~= 'gone' then redis.call('DEL', KEYS[1]) end
if redis.call('EXISTS', KEYS[3]) == 0 then redis.call('SREM', KEYS[2], ARGV[1]) end
return 1
"""

NODES: Final = """
-- KEYS: all nodes. ARGV: prefix. Returns a JSON object: what each node says of itself.
local found = {}
for _, node in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local said = redis.call('GET', ARGV[1] .. ':node:' .. node)
  if said and said ~= 'gone' then found[node] = said end
end
return cjson.encode(found)
"""

ORPHANS: Final = """
-- KEYS: all nodes. ARGV: node, prefix, most starts of a dead node, how long it stays dead (s).
-- Takes accepted starts of nodes that have died, and returns them as a JSON list. Each is this node's from now on.
local found = {}
for _, node in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local said = redis.call('GET', ARGV[2] .. ':node:' .. node)
  if node ~= ARGV[1] and (not said or said == 'gone') then
    local ids = redis.call('SPOP', ARGV[2] .. ':publishes:' .. node, ARGV[3])
    if #ids == 0 then
      redis.call('SREM', KEYS[1], node)
    else
      redis.call('SET', ARGV[2] .. ':node:' .. node, 'gone', 'EX', ARGV[4])
    end
    for _, id in ipairs(ids) do
      local key = ARGV[2] .. ':publish:' .. id
      local fields = redis.call('HGETALL', key)
      if #fields > 0 then
        local start = {id = id}
        for i = 1, #fields, 2 do start[fields[i]] = fields[i + 1] end
        redis.call('HSET', key, 'node', ARGV[1])
        redis.call('SADD', ARGV[2] .. ':publishes:' .. ARGV[1], id)
        redis.call('SADD', KEYS[1], ARGV[1])
        found[#found + 1] = start
      end
    end
  end
end
return cjson.encode(found)
"""

OWNS: Final = """
-- KEYS: accepted start, this node. ARGV: node. Returns whether its end is this node's to tell; also where nobody knows
-- of it, because Redis was emptied.
if redis.call('GET', KEYS[2]) == 'gone' then return 0 end
local owner = redis.call('HGET', KEYS[1], 'node')
return (not owner or owner == ARGV[1]) and 1 or 0
"""

FORGET: Final = """
-- KEYS: accepted start, this node's. ARGV: node, id. Its end has been told.
if redis.call('HGET', KEYS[1], 'node') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[2], ARGV[2])
return 1
"""
