"""What instruments are made of: records, ids, context, buffer, recorder, black box."""
