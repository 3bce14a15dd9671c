//! Quality values of `Accept` and `Accept-Encoding` (RFC 9110, section 12.4.2).

/// The items of the lists in a header, each with its weight, 0 to 1. Other parameters are ignored. An invalid weight is 0:
/// not acceptable.
pub fn weights<'a>(values: impl Iterator<Item = &'a str>) -> impl Iterator<Item = (&'a str, f32)> {
    values.flat_map(|value| value.split(',')).filter_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?;
        let weight = parts.find_map(|parameter| {
            let (name, weight) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then(|| weight.trim().parse().unwrap_or(0.0))
        });
        Some((name, weight.unwrap_or(1.0)))
    })
}

/// The highest weight of a name, in any case; none if it is not listed.
pub fn weight_of(weights: &[(&str, f32)], name: &str) -> Option<f32> {
    let named = weights.iter().filter(|(item, _)| item.eq_ignore_ascii_case(name));
    named.map(|(_, weight)| *weight).reduce(f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read_as_they_are_written() {
        let header = ["gzip, zstd;q=0.5 , ;q=1,*; Q = 0", "text/plain;version=0.0.4;q=0.25", "br;q=x"];
        let weights: Vec<(&str, f32)> = weights(header.into_iter()).collect();
        let expected = [("gzip", 1.0), ("zstd", 0.5), ("*", 0.0), ("text/plain", 0.25), ("br", 0.0)];
        assert_eq!(weights, expected);
        assert_eq!((weight_of(&weights, "GZIP"), weight_of(&weights, "identity")), (Some(1.0), None));
    }
}
