-- What Argo CD shows for an EtcdCluster, by the conditions of its status.
local status = obj.status
if obj.spec ~= nil and obj.spec.paused then
  return { status = "Suspended", message = "spec.paused is true" }
end
if status == nil or status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not seen this version yet" }
end
if status.phase == "Parked" then
  return { status = "Suspended", message = status.reason }
end
local is = {}
for _, condition in ipairs(status.conditions) do
  is[condition.type] = condition.status == "True"
end
if is.Stalled then
  return { status = "Degraded", message = status.reason }
end
if is.Reconciling then
  return { status = "Progressing", message = status.reason }
end
if is.Ready and is.Available then
  return { status = "Healthy", message = status.reason }
end
return { status = "Degraded", message = status.reason }
