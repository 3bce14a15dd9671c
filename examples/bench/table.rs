//! Pairs of measurements, and the table that they come to.

use std::env;
use std::thread;

/// Rows of results.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

struct Row {
    name: String,
    ours: String,
    reference: String,
    ratio: String,
    aim: String,
}

/// What a ratio should be.
#[derive(Debug, Clone, Copy)]
pub enum Aim {
    AtLeast(f64),
    AtMost(f64),
    None,
}

/// How many pairs are measured.
pub fn pairs() -> usize {
    env::var("BENCH_PAIRS").ok().and_then(|pairs| pairs.parse().ok()).unwrap_or(7)
}

pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value that so large a part of the values stays within.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() as f64 * share) as usize).min(sorted.len() - 1)]
}

impl Table {
    /// Measures two things in turn and adds the ratio of the first to the second.
    pub fn compare(
        &mut self,
        name: &str,
        unit: &str,
        aim: Aim,
        mut ours: impl FnMut() -> anyhow::Result<f64>,
        mut reference: impl FnMut() -> anyhow::Result<f64>,
    ) -> anyhow::Result<()> {
        let mut measured = Vec::new();
        for pair in 0..pairs() {
            // Whoever comes second may find a warmer machine: the order alternates.
            let (left, right) = if pair % 2 == 0 {
                let left = ours()?;
                (left, reference()?)
            } else {
                let right = reference()?;
                (ours()?, right)
            };
            eprintln!("{name}: {left:.1} {unit} : {right:.1} {unit} = {:.3}", left / right);
            measured.push((left, right));
        }
        self.add_pairs(name, unit, aim, &measured);
        Ok(())
    }

    pub fn add_pairs(&mut self, name: &str, unit: &str, aim: Aim, measured: &[(f64, f64)]) {
        let ours: Vec<f64> = measured.iter().map(|(ours, _)| *ours).collect();
        let reference: Vec<f64> = measured.iter().map(|(_, reference)| *reference).collect();
        let ratios: Vec<f64> = measured.iter().map(|(ours, reference)| ours / reference).collect();
        let ratio = median(&ratios);
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (aim, met) = match aim {
            Aim::AtLeast(bound) => (format!("≥ {bound}"), ratio >= bound),
            Aim::AtMost(bound) => (format!("≤ {bound}"), ratio <= bound),
            Aim::None => (String::new(), true),
        };
        self.rows.push(Row {
            name: name.to_owned(),
            ours: format!("{:.1} {unit}", median(&ours)),
            reference: format!("{:.1} {unit}", median(&reference)),
            ratio: format!("{ratio:.2} ({least:.2} to {most:.2})"),
            aim: if met { aim } else { format!("{aim}, missed") },
        });
    }

    pub fn print(&self) {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        println!("{cores} cores, medians of {} pairs, least and most ratio in brackets", pairs());
        println!();
        println!("| measured | eventctl | reference | ratio | aim |");
        println!("| --- | ---: | ---: | ---: | ---: |");
        for Row { name, ours, reference, ratio, aim } in &self.rows {
            println!("| {name} | {ours} | {reference} | {ratio} | {aim} |");
        }
    }
}
