//! Statements of every database as MySQL runs them.

use std::io;

use mysql::prelude::Queryable;
use mysql::{Params, Row, Value as Sql};

use super::link::Link;
use crate::store::error::DatabaseError;
use crate::store::statements::{Statements, Value};

/// The character set of columns that hold no text.
const BINARY: u16 = 63;

impl Statements for Link {
    fn for_update(&self) -> &'static str {
        " FOR UPDATE"
    }

    fn execute(&mut self, statement: &str, values: &[Value]) -> Result<(), DatabaseError> {
        let (statement, values) = (statement.to_owned(), parameters(values));
        Ok(self.call(move |connection| connection.exec_drop(statement, values))?)
    }

    fn values(
        &mut self,
        statement: &str,
        values: &[Value],
        columns: usize,
    ) -> Result<Vec<Value>, DatabaseError> {
        let (statement, values) = (statement.to_owned(), parameters(values));
        let rows: Vec<Row> = self.call(move |connection| connection.exec(statement, values))?;
        let mut cells = Vec::with_capacity(rows.len() * columns);
        for row in rows {
            let kinds = row.columns();
            for (column, sql) in kinds.iter().zip(row.unwrap()).take(columns) {
                cells.push(match sql {
                    Sql::Bytes(bytes) if column.character_set() == BINARY => Value::Bytes(bytes),
                    sql => value_of(sql)?,
                });
            }
        }
        Ok(cells)
    }
}

fn value_of(column: Sql) -> mysql::Result<Value> {
    let unexpected =
        |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("a column holds {what}"));
    Ok(match column {
        Sql::NULL => Value::Null,
        Sql::Int(number) => Value::Number(number),
        Sql::UInt(number) => Value::Number(i64::try_from(number).map_err(|_| unexpected("a huge number"))?),
        Sql::Bytes(bytes) => Value::Text(String::from_utf8(bytes).map_err(|_| unexpected("no UTF-8"))?),
        _ => return Err(unexpected("neither text nor a number").into()),
    })
}

fn parameters(values: &[Value]) -> Params {
    if values.is_empty() {
        return Params::Empty;
    }
    let value = |value: &Value| match value {
        Value::Null => Sql::NULL,
        Value::Number(number) => number.into(),
        Value::Text(text) => text.into(),
        Value::Bytes(bytes) => bytes.into(),
    };
    Params::Positional(values.iter().map(value).collect())
}
