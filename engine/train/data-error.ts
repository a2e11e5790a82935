// Faults of training data: stable kinds, and where in which file.

export const ROW_FAULTS = {
  invalid_utf8: 'the line is not UTF-8',
  invalid_json: 'the line is not one JSON value',
  line_too_long: 'the line or record is longer than 8 MiB',
  not_an_object: 'the value is not an object',
  unknown_columns: 'none of messages / prompt + completion / instruction + output / text is there',
  messages_not_list: 'messages is not a list',
  empty_messages: 'messages is empty',
  message_not_object: 'an entry of messages is not an object',
  missing_role: 'a message has no role',
  unknown_role: 'a role is not system, user or assistant',
  missing_content: 'a message has no content',
  content_not_string: 'a text is not a string',
  empty_content: 'a text is empty',
  bad_alternation: 'turns after an optional system message are not user, assistant, user, ...',
  no_answer: 'the last turn is not the assistant\'s',
  bad_weight: 'weight is not 0 or 1, or stands on another role than assistant',
  no_targets: 'every answer has weight 0',
  refused_by_template: 'the model\'s chat template refuses the messages',
  no_such_loss: 'this row has no such turns: train on all of it (loss_on all)',
  wrong_column_count: 'the record has more or fewer fields than the header',
  invalid_csv: 'a quoted field does not end, or text follows its end',
  duplicate_column: 'the header names a column twice',
  empty_file: 'there is no record in it',
  invalid_parquet: 'it cannot be read as Parquet',
  too_long: 'more tokens than max_length',
} as const

export type RowFaultKind = keyof typeof ROW_FAULTS

/** One row, or a whole file (line null), that cannot be used. */
export class RowFault extends Error {
  readonly kind: RowFaultKind

  constructor(kind: RowFaultKind, detail = '') {
    super(detail === '' ? ROW_FAULTS[kind] : `${ROW_FAULTS[kind]} (${detail})`)
    this.kind = kind
  }
}

/** What a reader yields: a value, or why there is none. `line` counts from 1; null = the file as a whole. */
export interface DataRecord {
  readonly line: number | null
  readonly row: unknown
}
