//! `stoker-graph operators`.

use stoker_graph::OperatorInfo;

/// All operators that run, as a table or as JSON.
pub fn operators(json: bool) -> String {
    let all = stoker_graph::operators();
    if json {
        let object = |&OperatorInfo { domain, name, since, types }: &OperatorInfo| serde_json::json!({"domain": domain, "name": name, "since": since, "types": types});
        let list: Vec<serde_json::Value> = all.iter().map(object).collect();
        return format!("{:#}\n", serde_json::Value::from(list));
    }
    let line = |&OperatorInfo { domain, name, since, types }: &OperatorInfo| {
        format!("{:40} from opset {since:2}  {types}\n", format!("{domain}::{name}"))
    };
    all.iter().map(line).collect()
}
