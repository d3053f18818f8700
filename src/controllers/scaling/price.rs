//! What a pod costs: a table of prices from the operator's configuration, and the resources that the pod requests.

use std::collections::BTreeMap;
use std::str::FromStr;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use stoker_api::quantity::quantity;

/// Bytes of what memory is priced by.
const GIB: f64 = (1_u64 << 30) as f64;

/// Prices per hour, by resource: of a core (`cpu`), of a GiB (`memory`, `ephemeral-storage`), of one piece of anything else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prices(BTreeMap<String, f64>);

/// Why a table of prices cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// No `=` in it.
    #[error("{0:?} is no price; write resource=price, such as cpu=0.04")]
    NoPrice(String),
    /// The price is no number of at least 0.
    #[error("the price of {0} must be a number of at least 0, per hour")]
    NoNumber(String),
    /// The resource stands there twice.
    #[error("{0} has two prices")]
    Twice(String),
}

impl FromStr for Prices {
    type Err = PriceError;

    /// `cpu=0.04,memory=0.005,nvidia.com/gpu=2.5`; empty: no prices.
    fn from_str(text: &str) -> Result<Self, PriceError> {
        let mut prices = BTreeMap::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (name, price) = entry.split_once('=').ok_or_else(|| PriceError::NoPrice(entry.to_owned()))?;
            let (name, price) = (name.trim().to_owned(), price.trim().parse::<f64>());
            let price = price.ok().filter(|price| price.is_finite() && *price >= 0.0);
            let price = price.ok_or_else(|| PriceError::NoNumber(name.clone()))?;
            if prices.insert(name.clone(), price).is_some() {
                return Err(PriceError::Twice(name));
            }
        }
        Ok(Self(prices))
    }
}

impl Prices {
    /// What one pod costs in an hour, by what its containers request (and else by their limits); none without prices.
    pub fn of(&self, template: &PodTemplateSpec) -> Option<f64> {
        if self.0.is_empty() {
            return None;
        }
        let containers = template.spec.iter().flat_map(|spec| &spec.containers);
        let resources = containers.filter_map(|container| container.resources.as_ref());
        let costs = resources.flat_map(|resources| {
            let mut asked = resources.limits.clone().unwrap_or_default();
            asked.extend(resources.requests.clone().unwrap_or_default());
            asked.into_iter().filter_map(|(name, asked)| {
                let price = self.0.get(&name)?;
                let unit = if matches!(name.as_str(), "memory" | "ephemeral-storage") { GIB } else { 1.0 };
                let amount = quantity(&asked.0).filter(|amount| *amount >= 0.0)?;
                Some(price * amount / unit)
            })
        });
        Some(costs.sum())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_costs_what_it_requests() {
        let prices: Prices = "cpu=0.04, memory=0.005,nvidia.com/gpu=2.5".parse().unwrap();
        let template: PodTemplateSpec = serde_json::from_value(json!({"spec": {"containers": [
            {"name": "server", "resources": {
                "requests": {"cpu": "500m", "memory": "2Gi"},
                "limits": {"memory": "4Gi", "nvidia.com/gpu": "1", "hugepages-2Mi": "4Mi"},
            }},
            {"name": "other"},
        ]}}))
        .unwrap();
        // Half a core, two GiB, and the device that only limits name.
        assert!((prices.of(&template).unwrap() - (0.02 + 0.01 + 2.5)).abs() < 1e-12);
        assert_eq!(Prices::default().of(&template), None);
    }

    #[test]
    fn wrong_tables_are_refused_by_what_is_wrong() {
        let said = |text: &str| text.parse::<Prices>().unwrap_err().to_string();
        assert!(said("cpu").contains("write resource=price"));
        assert!(said("cpu=cheap").contains("the price of cpu"));
        assert!(said("cpu=-1").contains("the price of cpu"));
        assert!(said("cpu=1,cpu=2").contains("cpu has two prices"));
        assert_eq!("".parse::<Prices>(), Ok(Prices::default()));
    }
}
