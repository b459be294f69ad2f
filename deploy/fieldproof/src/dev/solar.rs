//! Real solar days, replayed: the power of a photovoltaic system, integrated to an energy register.
//!
//! All in integers: power in milliwatts, time in milliseconds, energy in milliwatt-hours. Between two
//! samples the power is that of the first one, as the data set defines it.

use std::{collections::BTreeMap, io::Read as _};

use anyhow::{Context as _, bail};
use flate2::read::GzDecoder;

/// The data set; `data/README.md` says where it is from.
const DATA: &[u8] = include_bytes!("../../data/pv-system-50.csv.gz");
/// Samples of a day.
const SAMPLES_PER_DAY: usize = 96;
/// Days with fewer samples than this stand for no device.
const SAMPLES_MIN: usize = 90;
const DAY_MS: u64 = 24 * 3600 * 1000;
const SAMPLE_MS: u64 = DAY_MS / SAMPLES_PER_DAY as u64;
/// Milliwatt-milliseconds in a milliwatt-hour.
const HOUR_MS: u64 = 3600 * 1000;

/// The days of the data set that are complete enough.
#[derive(Debug)]
pub struct SolarDays {
    days: Vec<SolarDay>,
}

/// One real day.
#[derive(Debug, Clone)]
pub struct SolarDay {
    /// Energy since midnight at the start of each sample, and at the end of the day, in
    /// milliwatt-milliseconds.
    energy_mw_ms: Vec<u64>,
    power_mw: Vec<u64>,
}

impl SolarDays {
    /// Reads the embedded data set.
    pub fn load() -> anyhow::Result<Self> {
        let mut text = String::new();
        GzDecoder::new(DATA).read_to_string(&mut text).context("the embedded solar data is damaged")?;
        let mut days: BTreeMap<&str, [Option<u64>; SAMPLES_PER_DAY]> = BTreeMap::new();
        for (number, line) in text.lines().enumerate().skip(1) {
            let (time, power) =
                line.split_once(',').with_context(|| format!("line {number} has no comma"))?;
            let (date, clock) = time.split_once('T').with_context(|| format!("line {number} has no time"))?;
            let sample = sample_of(clock).with_context(|| format!("line {number} has the time `{clock}`"))?;
            let power_mw =
                milliwatts(power).with_context(|| format!("line {number} has the power `{power}`"))?;
            days.entry(date).or_insert([None; SAMPLES_PER_DAY])[sample] = Some(power_mw);
        }
        let days: Vec<_> = days
            .into_values()
            .filter(|samples| samples.iter().flatten().count() >= SAMPLES_MIN)
            .map(|samples| SolarDay::new(&samples))
            .filter(|day| day.energy_mwh() > 0)
            .collect();
        if days.is_empty() {
            bail!("the embedded solar data has no complete day");
        }
        Ok(Self { days })
    }

    /// The day of a number; numbers beyond the last day start over.
    pub fn day(&self, number: u64) -> &SolarDay {
        let count = self.days.len() as u64;
        &self.days[usize::try_from(number % count).expect("an index below a length")]
    }
}

impl SolarDay {
    fn new(samples: &[Option<u64>; SAMPLES_PER_DAY]) -> Self {
        let mut energy_mw_ms = vec![0];
        let mut total = 0;
        let mut power_mw = Vec::new();
        let mut last = 0;
        for sample in samples {
            // A sample that is missing has the power of the one before.
            last = sample.unwrap_or(last);
            power_mw.push(last);
            total += last * SAMPLE_MS;
            energy_mw_ms.push(total);
        }
        Self { energy_mw_ms, power_mw }
    }

    /// The energy of the whole day.
    pub fn energy_mwh(&self) -> u64 {
        self.energy_mw_ms[SAMPLES_PER_DAY] / HOUR_MS
    }

    /// The register of a meter that stood at zero at midnight and has repeated this day since:
    /// milliwatt-hours after `elapsed_ms`.
    pub fn register_mwh(&self, elapsed_ms: u64) -> u64 {
        let days = elapsed_ms / DAY_MS;
        let in_day = elapsed_ms % DAY_MS;
        let sample = usize::try_from(in_day / SAMPLE_MS).expect("a sample of a day");
        let partial = self.power_mw[sample] * (in_day % SAMPLE_MS);
        (days * self.energy_mw_ms[SAMPLES_PER_DAY] + self.energy_mw_ms[sample] + partial) / HOUR_MS
    }
}

/// The number of the sample that starts at `HH:MM:SS…`.
fn sample_of(clock: &str) -> Option<usize> {
    let hours: usize = clock.get(0..2)?.parse().ok()?;
    let minutes: usize = clock.get(3..5)?.parse().ok()?;
    let sample = hours * 4 + minutes / 15;
    (minutes.is_multiple_of(15) && sample < SAMPLES_PER_DAY).then_some(sample)
}

/// Watts in decimal digits to milliwatts, exactly. The meter's small negative values at night, its
/// own consumption, generate nothing.
fn milliwatts(watts: &str) -> Option<u64> {
    if watts.starts_with('-') {
        return Some(0);
    }
    let (whole, fraction) = watts.split_once('.').unwrap_or((watts, "0"));
    if fraction.len() > 3 {
        return None;
    }
    let scale = 10_u64.pow(3 - u32::try_from(fraction.len()).ok()?);
    Some(whole.parse::<u64>().ok()? * 1000 + fraction.parse::<u64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_set_has_its_days_and_registers_rise() {
        let days = SolarDays::load().unwrap();
        assert!(days.days.len() > 900, "{} days", days.days.len());
        for number in [0, 1, 500, 10_000] {
            let day = days.day(number);
            let registers: Vec<_> = (0..=48).map(|hour| day.register_mwh(hour * HOUR_MS)).collect();
            assert!(registers.is_sorted());
            assert_eq!(day.register_mwh(DAY_MS), day.energy_mwh());
        }
    }

    #[test]
    fn power_is_read_exactly() {
        let cases = [
            ("0.0", Some(0)),
            ("2413.807", Some(2_413_807)),
            ("2752.36", Some(2_752_360)),
            ("5", Some(5000)),
        ];
        for (text, expected) in cases {
            assert_eq!(milliwatts(text), expected, "{text}");
        }
        assert_eq!(milliwatts("-1.5"), Some(0));
        assert_eq!(milliwatts("1.2345"), None);
        assert_eq!(milliwatts("x"), None);
    }
}
