-- The gateway's job in nginx with Lua, but for the log: Debian has no Kafka client for it. Looks up the key, inflates,
-- decodes strictly, answers.
local cjson = require("cjson.safe")
local zlib = require("zlib")

local SOURCES = { ota = true, bundled = true, previous = true, none = true }
local STATES = { offered = true, downloaded = true, verified = true, activated = true, failed = true, reverted = true,
    quarantined = true }
local LAST_MILLISECOND = 10413791999999
local LARGEST_INTEGER = 2 ^ 53 - 1
local LARGEST_UINT32 = 2 ^ 32 - 1
local INFLATED_MAX = 8 * 1024 * 1024
local UUID = "^%x%x%x%x%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$"

local apps = {}
local M = {}

function M.init(key)
    apps[ngx.sha1_bin(key)] = "bench"
end

local function count(value, largest)
    return type(value) == "number" and value >= 0 and value <= (largest or LARGEST_INTEGER) and value % 1 == 0
end

local function text(value, longest)
    return type(value) == "string" and #value <= longest
end

local function name(value)
    return text(value, 64) and value ~= ""
end

local function probability(value)
    return type(value) == "number" and value >= 0 and value <= 1
end

local function absent(value)
    return value == nil or value == cjson.null
end

local function use(value)
    return count(value, LARGEST_UINT32) or value == "bundled" or value == "none"
end

local function label(value)
    return text(value, 64)
end

local function prediction(event, carried)
    if not (count(event.id) and count(event.release, LARGEST_UINT32) and SOURCES[event.source]
        and probability(event.score) and type(event.decision) == "boolean") then
        return false
    end
    if event.propensity ~= nil and not probability(event.propensity) then return false end
    if event.latency_us ~= nil and not count(event.latency_us, LARGEST_UINT32) then return false end
    local signals = event.signals or {}
    if #signals ~= carried then return false end
    for i = 1, #signals do
        if type(signals[i]) ~= "number" and signals[i] ~= cjson.null then return false end
    end
    return (absent(event.outcome) or label(event.outcome)) and (absent(event.value) or type(event.value) == "number")
end

local function event_is_good(event, signals)
    if type(event) ~= "table" or not count(event.t, LAST_MILLISECOND) or not name(event.model) then return false end
    if event.type == "prediction" then
        return prediction(event, signals[event.model] and #signals[event.model] or 0)
    elseif event.type == "outcome" then
        return count(event.id) and label(event.outcome)
    end
    return event.type == "model" and count(event.release, LARGEST_UINT32) and STATES[event.state] == true
        and (event.detail == nil or text(event.detail, 256)) and (event.bytes == nil or count(event.bytes))
end

local function batch_is_good(batch)
    if type(batch) ~= "table" or not text(batch.device, 36) or not batch.device:find(UUID) then return false end
    if not text(batch.batch, 36) or not batch.batch:find(UUID) or not count(batch.seq) then return false end
    if not count(batch.sent_at, LAST_MILLISECOND) or not name(batch.sdk) or type(batch.events) ~= "table" then
        return false
    end
    for _, field in ipairs({ "app_version", "os", "hardware", "locale" }) do
        if batch[field] ~= nil and not label(batch[field]) then return false end
    end
    for model, have in pairs(batch.have or {}) do
        if not name(model) or type(have) ~= "table" or not count(have.catalogue) or not use(have.use) then return false end
    end
    local signals = batch.signals or {}
    for model, names in pairs(signals) do
        if not name(model) or #names > 256 then return false end
        for _, each in ipairs(names) do
            if not name(each) then return false end
        end
    end
    if #batch.events > 1000 then return false end
    for _, event in ipairs(batch.events) do
        if not event_is_good(event, signals) then return false end
    end
    return true
end

local function inflated(body)
    local ok, document, eof = pcall(zlib.inflate(), body)
    return ok and eof and #document <= INFLATED_MAX and document or nil
end

function M.handle()
    local key = (ngx.var.http_authorization or ""):match("^Bearer (.*)$")
    if not key or not apps[ngx.sha1_bin(key)] then return ngx.exit(401) end
    ngx.req.read_body()
    local document = inflated(ngx.req.get_body_data() or "")
    local batch = document and cjson.decode(document)
    if not batch_is_good(batch) then return ngx.exit(400) end
    local reply = ('{"batch":"%s","accepted":%d,"server_time":%d,"flush":{"events":50,"seconds":300,"lease_seconds":21600}}')
        :format(batch.batch, #batch.events, ngx.now() * 1000)
    ngx.header["Content-Type"] = "application/json"
    ngx.header["Content-Length"] = #reply
    ngx.print(reply)
end

return M
