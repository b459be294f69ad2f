-- The weight of a provider is the energy that its devices generated, in mWh. A reading that comes
-- after its epoch was cut is credited once: in the epoch whose slot it landed in. Devices that signed
-- two batches for one place count nothing until the flag is lifted.
WITH counted AS (
  SELECT device, provider, count(*) AS readings, 0 AS late_readings, sum(growth) AS energy_mwh
  FROM readings
  WHERE metric = $energy_metric
  GROUP BY device, provider
  UNION ALL
  SELECT device, provider, 0 AS readings, count(*) AS late_readings, sum(growth) AS energy_mwh
  FROM late_readings
  WHERE metric = $energy_metric
  GROUP BY device, provider
),
per_device AS (
  SELECT
    device,
    provider,
    sum(readings) AS readings,
    sum(late_readings) AS late_readings,
    sum(energy_mwh) AS energy_mwh
  FROM counted
  GROUP BY device, provider
)
SELECT
  devices.provider AS provider,
  coalesce(sum(CASE WHEN devices.flagged THEN 0 ELSE per_device.energy_mwh END), 0) AS weight,
  count(*) AS devices,
  coalesce(sum(per_device.readings), 0) AS readings,
  coalesce(sum(per_device.late_readings), 0) AS late_readings,
  coalesce(sum(per_device.energy_mwh), 0) AS energy_mwh,
  sum(CASE WHEN devices.flagged THEN 1 ELSE 0 END) AS flagged_devices
FROM devices
LEFT JOIN per_device
  ON per_device.device = devices.device AND per_device.provider = devices.provider
GROUP BY devices.provider
